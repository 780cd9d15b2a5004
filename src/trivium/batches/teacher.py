"""A teacher's logits beside each batch, for distillation, and batches of the student's own replies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trivium.batches.chat import Conversations
from trivium.batches.context import Items, PhaseContext, Rows, both_splits
from trivium.batches.prompts import Prompts
from trivium.batches.rollouts import Rollouts
from trivium.batches.rows import BatchSharding
from trivium.batches.translated import Translated, Translator
from trivium.corpus.records import read
from trivium.generate.sampling import SamplingParams
from trivium.model import hf
from trivium.model.transformer import Transformer
from trivium.plan import flops
from trivium.recipe.alignment import DistillStage
from trivium.seeds import unit
from trivium.text.chat import ChatTokenizer
from trivium.text.spans import shared
from trivium.text.tokenizer import check_same
from trivium.train.machine import Machine
from trivium.types import Batch, Batches, LiveBatches


@dataclass
class WithTeacher:
    """Adds `teacher_logits` (B, T, V) to every batch: one forward pass of the frozen teacher, without gradient.

    `ids`: V, the tokens that there are; rows of embeddings beyond them belong to no token.
    """

    inner: Batches
    teacher: Transformer
    machine: Machine
    ids: int
    period: int = 1
    live_flops: float = 0.0

    @torch.no_grad()
    def batch(self, step: int) -> list[Batch]:
        micro = list(self.inner.batch(step))
        for batch in micro:
            moved: Any = {name: value.to(self.machine.device) for name, value in batch.items()}  # type: ignore[attr-defined]
            with self.machine.autocast():
                logits = self.teacher(moved, {"logits"}).logits
            assert logits is not None
            batch["teacher_logits"] = logits[..., : self.ids]
        return micro


@dataclass
class Blend:
    """A share of the steps takes `own` (the student's replies), the others `given`: on-policy distillation (Agarwal et al. 2024).

    Which step takes which is drawn from the seed and the step alone.
    """

    given: Batches
    own: LiveBatches
    share: float
    sharding: BatchSharding
    period: int = 1

    @property
    def live_flops(self) -> float:
        return self.share * self.own.live_flops

    def batch(self, step: int) -> list[Batch]:
        own = is_own(self.sharding.seed, step, self.share)
        return list((self.own if own else self.given).batch(step))


def is_own(seed: int, step: int, share: float) -> bool:
    """Whether a step takes the student's own replies."""
    return unit(seed, f"own/{step}") < share


@dataclass(kw_only=True)
class Taught(Items):
    """Conversations with the teacher's logits; a share of the steps trains on the student's own replies."""

    ctx: PhaseContext[DistillStage]
    teacher: Transformer

    def ordered(self, sharding: BatchSharding, steps: int) -> Batches:
        batches, config = super().ordered(sharding, steps), self.ctx.config
        if not config.on_policy:
            return batches
        return Blend(batches, self._own(sharding), config.on_policy, sharding)

    def live(self, batches: Batches, rows: Rows) -> Batches:
        work = flops.forward(self.teacher.config, rows.length) * rows.tokens_per_item * self.ctx.config.batch
        if isinstance(batches, LiveBatches):
            work += batches.live_flops
        return WithTeacher(batches, self.teacher, self.ctx.machine, self.ctx.chat.vocab_size, live_flops=work)

    def _own(self, sharding: BatchSharding) -> Rollouts:
        ctx, longest = self.ctx, self.ctx.config.max_new_tokens
        asked = Prompts.build(list(read(ctx.data / "train")), ctx.chat, ctx.length, longest)
        if message := asked.warning(ctx.length, longest):
            ctx.emit({"event": "warning", "message": message})
        return Rollouts(
            prompts=asked,
            network=ctx.model,
            chat=ctx.chat,
            machine=ctx.machine,
            sharding=sharding,
            sampling=SamplingParams(1.0, 1.0, longest),
            value=lambda rollout, tensors, network: {},
            folder=ctx.work / "rollouts",
            emit=ctx.emit,
        )


def taught(ctx: PhaseContext[DistillStage]) -> Items:
    """Conversations with a teacher's logits. ArtifactError where `match` is `ids` and the teacher's are others."""
    folder = ctx.others["teacher"]
    teacher = hf.load(folder, device=ctx.machine.device).eval().requires_grad_(False)
    if ctx.config.match == "text":
        return _translated(ctx, teacher)
    other = ", or write `match: text`"
    check_same(ctx.chat.tokenizer, folder, "the teacher", rows=teacher.config.vocab_size, else_=other)
    items = both_splits(lambda split: Conversations.build(read(ctx.data / split), ctx.chat, ctx.length), ctx)
    return Taught(items.train, items.heldout, items.account, ctx=ctx, teacher=teacher)


@dataclass(kw_only=True)
class TaughtByText(Items):
    """Conversations with what a teacher of another tokenizer says of the same text."""

    ctx: PhaseContext[DistillStage]
    teacher: Transformer
    chat: ChatTokenizer
    """The teacher's."""

    def live(self, batches: Batches, rows: Rows) -> Batches:
        assert isinstance(rows, Translated)
        ctx, them = self.ctx, self.chat
        work = flops.forward(self.teacher.config, rows.other_length) * rows.other_length * ctx.config.batch
        both, sizes = shared(ctx.chat, them), (ctx.chat.vocab_size, them.vocab_size)
        temperature = ctx.config.distill_temperature
        return Translator(batches, self.teacher, ctx.machine, both, sizes, temperature, live_flops=work)


def _translated(ctx: PhaseContext[DistillStage], teacher: Transformer) -> Items:
    them = ChatTokenizer.load(ctx.others["teacher"])

    def build(split: str) -> Translated:
        return translated(ctx.data / split, ctx.chat, them, ctx.length, teacher.config.context)

    items = both_splits(build, ctx)
    return TaughtByText(items.train, items.heldout, items.account, ctx=ctx, teacher=teacher, chat=them)


def translated(split: Path, us: ChatTokenizer, them: ChatTokenizer, length: int, theirs: int) -> Translated:
    """A split for a teacher with the tokenizer `them` and a context of `theirs` tokens."""
    longest = min(theirs, 2 * length)  # another tokenizer may need more tokens
    return Translated.build(read(split), us, them, length, longest)
