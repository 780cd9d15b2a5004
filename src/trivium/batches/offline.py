"""What phases make of data that lies on the disk: packed documents and conversations, preference pairs, marked replies.

Phases on the policy's own replies are in `online.py`, those with a teacher in `teacher.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from trivium.batches.annotate import annotate_feedback, annotate_reference
from trivium.batches.chat import Conversations
from trivium.batches.context import Items, PhaseContext, Rows, both_splits
from trivium.batches.feedback import Feedback, WithBaseline
from trivium.batches.packed import Corpus, open_corpus
from trivium.batches.pairs import Pairs
from trivium.batches.rows import BatchSharding
from trivium.batches.shares import labels, mixed
from trivium.corpus.records import read
from trivium.errors import DataError
from trivium.plan import flops
from trivium.recipe.training import TrainingStage
from trivium.types import Batches

Context = PhaseContext[TrainingStage]


@dataclass(kw_only=True)
class Documents(Items):
    """Rows of several sources, mixed as the data stage says."""

    ctx: Context

    def ordered(self, sharding: BatchSharding, steps: int) -> Batches:
        assert isinstance(self.train, Corpus)
        batches, self.account["sources"] = mixed(self.train, self.ctx.data, sharding, steps, self.ctx.emit)
        return batches


def packed(ctx: Context) -> Items:
    """Documents, laid end to end in rows."""
    tokens = ctx.tokens or ctx.work

    def corpus(split: str, rows: int) -> Corpus:
        what = f"the {split} split"
        return open_corpus(ctx.data / split, ctx.chat, tokens / split, ctx.length, rows=rows, what=what)

    train = corpus("train", ctx.config.batch)
    heldout: Corpus | None = None
    try:
        heldout = corpus("heldout", 1)
        heldout.names = labels(ctx.data, [source.shard.source for source in heldout.sources])
    except DataError:  # a held-out split shorter than one row: trained without a before and after
        pass
    return Documents(train, heldout, {"tokens_available": train.total_tokens}, ctx=ctx)


def chat(ctx: Context) -> Items:
    """Conversations, laid end to end in rows; the loss is on what the assistant says."""

    def conversations(split: str, most: int | None) -> Conversations:
        learn: Any = getattr(ctx.config, "learn", "all")  # a plug-in's stage may have no such field
        return Conversations.build(read(ctx.data / split), ctx.chat, ctx.length, learn=learn, most=most)

    return both_splits(conversations, ctx)


def pairs(ctx: Context) -> Items:
    """Preference pairs, two rows each."""

    def both(split: str, most: int | None) -> Pairs:
        return Pairs.build(read(ctx.data / split), ctx.chat, ctx.length, most=most)

    return both_splits(both, ctx)


def pairs_with_reference(ctx: Context) -> Items:
    """The same with the frozen reference's log-probabilities."""
    return _referenced(ctx, pairs(ctx), annotate_reference)


@dataclass(kw_only=True)
class Marked(Items):
    """Replies marked good or bad; each batch needs KTO's baseline, which the policy of the step is asked for."""

    ctx: Context

    def live(self, batches: Batches, rows: Rows) -> Batches:
        assert isinstance(rows, Feedback)
        tokens = sum(len(encoded.ids) for encoded in rows.mismatched) / len(rows.mismatched)
        forward = flops.forward(self.ctx.model.config, rows.length)
        work = forward * tokens * self.ctx.config.batch
        return WithBaseline(batches, rows, self.ctx.network, self.ctx.machine, live_flops=work)


def feedback(ctx: Context) -> Items:
    """Single replies marked good or bad, with the frozen reference's log-probabilities."""

    def build(split: str, most: int | None) -> Feedback:
        return Feedback.build(read(ctx.data / split), ctx.chat, ctx.length, both=split == "train", most=most)

    items = _referenced(ctx, both_splits(build, ctx), annotate_feedback)
    return Marked(items.train, items.heldout, items.account, ctx=ctx)


def _referenced(ctx: Context, items: Items, annotate: Callable[..., None]) -> Items:
    """`items` with the frozen reference's log-probabilities of both splits, from the model as it is before the first step."""
    message = (
        "the frozen reference is the checkpoint that this phase starts from; its log-probabilities are "
        "computed once, so one model is in memory"
    )
    ctx.emit({"event": "message", "message": message})
    machine: Any = ctx.machine
    for name, part in (("train", items.train), ("heldout", items.heldout)):
        if part is not None:
            where = ctx.work / f"reference-{name}.safetensors"
            annotate(part, ctx.model, where, autocast=machine.autocast(), device=machine.device)
    return items
