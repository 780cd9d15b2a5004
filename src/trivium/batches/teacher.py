"""A teacher's logits beside each batch, for distillation, and batches of the student's own replies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from trivium.batches.chat import Conversations
from trivium.batches.context import Items, PhaseContext, both_splits
from trivium.batches.rollouts import Prompts, Rollouts
from trivium.batches.rows import BatchSharding, Fixed, Shuffled
from trivium.corpus.records import read
from trivium.errors import ArtifactError
from trivium.generate.sampling import SamplingParams
from trivium.model import hf
from trivium.model.transformer import Transformer
from trivium.seeds import unit
from trivium.train.machine import Machine
from trivium.types import Batch, Batches


@dataclass
class WithTeacher:
    """Adds `teacher_logits` (B, T, V) to every batch: one forward pass of the frozen teacher, without gradient."""

    inner: Batches
    teacher: Transformer
    machine: Machine
    period: int = 1

    @torch.no_grad()
    def batch(self, step: int) -> list[Batch]:
        micro = list(self.inner.batch(step))
        for batch in micro:
            moved: Any = {name: value.to(self.machine.device) for name, value in batch.items()}  # type: ignore[attr-defined]
            with self.machine.autocast():
                logits = self.teacher(moved, {"logits"}).logits
            assert logits is not None
            batch["teacher_logits"] = logits
        return micro


@dataclass
class Blend:
    """A share of the steps takes `own` (the student's replies), the others `given`: on-policy distillation (Agarwal et al. 2024).

    Which step takes which is drawn from the seed and the step alone.
    """

    given: Batches
    own: Batches
    share: float
    sharding: BatchSharding
    period: int = 1

    def batch(self, step: int) -> list[Batch]:
        own = unit(self.sharding.seed, f"own/{step}") < self.share
        return list((self.own if own else self.given).batch(step))


def taught(ctx: PhaseContext) -> Items:
    """Documents or conversations with the teacher's logits; a share of the steps on the student's own replies."""
    config: Any = ctx.config
    teacher = hf.load(ctx.others["teacher"], device=ctx.machine.device).eval().requires_grad_(False)
    if teacher.config.vocab_size != ctx.model.config.vocab_size:
        raise ArtifactError(
            f"the teacher has {teacher.config.vocab_size:,} tokens and the student {ctx.model.config.vocab_size:,}",
            fix="distil between models with the same tokenizer",
        )

    def build(split: str) -> Conversations:
        return Conversations.build(read(ctx.data / split), ctx.chat, ctx.length)

    items = both_splits(build, ctx)

    def around(batches: Batches) -> Batches:
        if config.on_policy and not isinstance(batches, Fixed):
            batches = Blend(batches, own(), config.on_policy, plans[0])
        return WithTeacher(batches, teacher, ctx.machine)

    plans: list[BatchSharding] = []

    def online(plan: BatchSharding, steps: int) -> Batches:
        plans.append(plan)
        return Shuffled(items.train.count, items.train.item, plan)

    def own() -> Rollouts:
        records = list(read(ctx.data / "train"))
        asked = Prompts.build(records, ctx.chat, ctx.length, config.max_new_tokens)
        if message := asked.warning(ctx.length, config.max_new_tokens):
            ctx.emit({"event": "warning", "message": message})
        return Rollouts(
            prompts=asked,
            network=ctx.model,
            chat=ctx.chat,
            machine=ctx.machine,
            sharding=plans[0],
            sampling=SamplingParams(1.0, 1.0, config.max_new_tokens),
            value=lambda rollout, tensors, network: {},
            folder=ctx.work / "rollouts",
            emit=ctx.emit,
        )

    items.around, items.online = around, online
    return items
