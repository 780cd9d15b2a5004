"""A teacher's logits beside each batch, for distillation, and batches of the student's own replies."""

from __future__ import annotations

import os
import sqlite3
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trivium.batches.context import Items, PhaseContext, Rows, both_splits
from trivium.batches.offline import chat
from trivium.batches.prompts import Prompts
from trivium.batches.rollouts import Rollouts
from trivium.batches.rows import BatchSharding
from trivium.batches.translated import Translated, Translator
from trivium.corpus.records import read
from trivium.generate.sampling import SamplingParams
from trivium.model import hf
from trivium.model.transformer import Transformer
from trivium.objectives.distill import coarse
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
class WithTop:
    """Adds what the teacher finds likeliest at each place, `teacher_top` (B, T, k), with the log-probabilities of those and of
    all others together, `teacher_top_logp` (B, T, k + 1). Each row is asked once and kept in the file at `kept`.

    `ids` as in `WithTeacher`; `temperature` softens what is kept.
    """

    inner: Batches
    teacher: Transformer
    machine: Machine
    ids: int
    top: int
    temperature: float
    kept: Path
    flops: float
    period: int = 1
    _new: float = 1.0  # share of the last step's rows that the teacher was asked

    def __post_init__(self) -> None:
        self.kept.parent.mkdir(parents=True, exist_ok=True)
        self._rows = sqlite3.connect(self.kept, isolation_level=None, check_same_thread=False)
        self._rows.execute("PRAGMA journal_mode = WAL")
        self._rows.execute("PRAGMA synchronous = OFF")  # what a crash takes is asked again
        self._rows.execute("CREATE TABLE IF NOT EXISTS rows (name BLOB PRIMARY KEY, top BLOB, logp BLOB)")

    def close(self) -> None:
        self._rows.close()

    @property
    def live_flops(self) -> float:
        return self.flops * self._new

    @torch.no_grad()
    def batch(self, step: int) -> list[Batch]:
        micro = list(self.inner.batch(step))
        asked = total = 0
        for batch in micro:
            names = [_name(tokens, doc) for tokens, doc in zip(batch["tokens"], batch["doc_id"], strict=True)]
            rows = [self._read(name, batch["tokens"].shape[1]) for name in names]
            total += len(rows)
            if missing := [number for number, row in enumerate(rows) if row is None]:
                asked += len(missing)
                for number, row in zip(missing, self._ask(batch, missing), strict=True):
                    self._keep(names[number], row)
                    rows[number] = row
            found = [row for row in rows if row is not None]
            batch["teacher_top"] = torch.stack([top for top, _ in found])
            batch["teacher_top_logp"] = torch.stack([logp for _, logp in found])
            batch["teacher_vocab"] = torch.full((len(found),), self.ids)
        self._new = asked / max(1, total)
        return micro

    def _ask(self, batch: Batch, numbers: list[int]) -> list[tuple[Tensor, Tensor]]:
        columns: Any = batch
        moved: Any = {name: value[numbers].to(self.machine.device) for name, value in columns.items()}
        with self.machine.autocast():
            logits = self.teacher(moved, {"logits"}).logits
        assert logits is not None
        logp = F.log_softmax(logits[..., : self.ids].float() / self.temperature, -1)
        top = logp.topk(self.top).indices
        return list(zip(top.cpu(), coarse(logp, top).cpu(), strict=True))

    def _read(self, name: bytes, length: int) -> tuple[Tensor, Tensor] | None:
        found = self._rows.execute("SELECT top, logp FROM rows WHERE name = ?", (name,)).fetchone()
        if found is None:
            return None
        top = torch.frombuffer(bytearray(found[0]), dtype=torch.int32).view(length, -1).long()
        return top, torch.frombuffer(bytearray(found[1]), dtype=torch.float32).view(length, -1)

    def _keep(self, name: bytes, row: tuple[Tensor, Tensor]) -> None:
        top, logp = row[0].int().numpy().tobytes(), row[1].numpy().tobytes()
        self._rows.execute("INSERT OR REPLACE INTO rows VALUES (?, ?, ?)", (name, top, logp))


def _name(tokens: Tensor, documents: Tensor) -> bytes:
    """What a row is known by: its tokens, and which of them see each other."""
    return sha256(tokens.numpy().tobytes() + documents.numpy().tobytes()).digest()


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
    _kept: list[WithTop] = field(default_factory=list)

    def ordered(self, sharding: BatchSharding, steps: int) -> Batches:
        batches, config = super().ordered(sharding, steps), self.ctx.config
        if not config.on_policy:
            return batches
        return Blend(batches, self._own(sharding), config.on_policy, sharding)

    def live(self, batches: Batches, rows: Rows) -> Batches:
        work = flops.forward(self.teacher.config, rows.length) * rows.tokens_per_item * self.ctx.config.batch
        config, ids = self.ctx.config, self.ctx.chat.vocab_size
        if (top := config.teacher_top) is not None:
            kept = self.ctx.work / f"teacher-{os.environ.get('RANK', '0')}.db"
            heat = config.distill_temperature
            top = min(top, ids - 1)
            self._kept.append(WithTop(batches, self.teacher, self.ctx.machine, ids, top, heat, kept, work))
            return self._kept[-1]
        if isinstance(batches, LiveBatches):
            work += batches.live_flops
        return WithTeacher(batches, self.teacher, self.ctx.machine, ids, live_flops=work)

    def close(self) -> None:
        for kept in self._kept:
            kept.close()

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
    items = chat(ctx)
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

    def build(split: str, most: int | None) -> Translated:
        return translated(ctx.data / split, ctx.chat, them, ctx.length, teacher.config.context, most)

    items = both_splits(build, ctx)
    return TaughtByText(items.train, items.heldout, items.account, ctx=ctx, teacher=teacher, chat=them)


def translated(
    split: Path, us: ChatTokenizer, them: ChatTokenizer, length: int, theirs: int, most: int | None = None
) -> Translated:
    """A split for a teacher with the tokenizer `them` and a context of `theirs` tokens."""
    longest = min(theirs, 2 * length)  # another tokenizer may need more tokens
    return Translated.build(read(split), us, them, length, longest, most)
