"""What a phase's batches are made from, and what its builder gives: the words between `phases.py` and the files beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from trivium.batches.rows import BatchSharding
from trivium.corpus.records import read
from trivium.errors import DataError
from trivium.model.transformer import Transformer
from trivium.recipe.training import TrainingStage
from trivium.text.chat import ChatTokenizer
from trivium.train.machine import Machine
from trivium.types import Batches, Emit

Score = Callable[[Mapping[str, Any], str], float]
"""A reward as a function of (data record, reply)."""


class Rows(Protocol):
    """Items that a phase trains on, each one row or several.

    May also have `names` (of sources) and `origins(index)` (the source of each document in an item's rows, or one for all, as
    numbers among them): then the held-out loss is told by source.
    """

    length: int  # tokens in a row

    @property
    def count(self) -> int: ...
    @property
    def tokens_per_item(
        self,
    ) -> float: ...  # that are computed, in the mean: padding and second copies are not
    def item(self, index: int) -> Any: ...  # Sequence[Row]


@dataclass(frozen=True)
class PhaseContext:
    """What a phase's batches are made from."""

    config: TrainingStage
    data: Path  # a data artifact
    chat: ChatTokenizer
    length: int  # tokens in a row
    work: Path
    seed: int
    model: Transformer  # the one in training; at first it is the checkpoint that the phase starts from
    network: Any  # what the loop calls: `model`, or that and its scalar head
    machine: Machine
    emit: Emit
    others: Mapping[str, Path] = field(default_factory=dict)  # artifacts of the stages that other fields name
    score: Score | None = None  # the verifier that the stage names
    tokens: Path | None = None  # where the data's token shards are, or will be

    @property
    def batch(self) -> int:
        return self.config.batch


@dataclass
class Items:
    """Training and held-out items of a phase, and what was dropped on the way.

    `around` wraps the batches in what must be computed at every step; `online` makes the batches of a layout and a
    number of steps itself: those of the model's own text, or a mix of sources.
    `measure` says what a loss cannot (rewards on held-out prompts), before training and after it.
    """

    train: Rows
    heldout: Rows | None
    account: dict[str, Any]
    rows_per_item: int = 1
    repeats: int = 1
    """How often an epoch shows an item: a prompt is replied to several times, and its replies are gone through again."""
    around: Callable[[Batches], Batches] = lambda batches: batches
    online: Callable[[BatchSharding, int], Batches] | None = None
    measure: Callable[[], dict[str, float]] | None = None


def both_splits(build: Callable[[str], Any], ctx: PhaseContext) -> Items:
    """Items of the training and the held-out split. What is left out is said with its row numbers.

    DataError where the training split makes less than a batch. A held-out split in which nothing fits is done without.
    """
    train = _one_split(build, ctx, "train")
    if train.count < ctx.batch:
        raise DataError(
            f"the training split makes {train.count} rows or pairs, which is less than one batch of {ctx.batch}",
            fix="add sources, or make `batch` smaller",
        )
    account = {**vars(train.account), "items": train.count, "row_tokens": train.length}
    heldout = None
    if any(True for _ in read(ctx.data / "heldout")):
        try:
            heldout = _one_split(build, ctx, "heldout")
        except DataError as error:
            if error.where:  # a row that is wrong, and not one that is too long
                raise
            ctx.emit({"event": "warning", "message": f"nothing is held out: {error.what}"})
    return Items(train, heldout, account)


def _one_split(build: Callable[[str], Any], ctx: PhaseContext, split: str) -> Any:
    try:
        made = build(split)
    except DataError as error:
        if error.where:
            error.where = f"{ctx.data / split}, {error.where}"
        raise
    if split == "train":
        made.account.refuse_endless()
    if said := made.account.warning(split, ctx.length):
        ctx.emit({"event": "warning", "message": said})
    return made
