"""The words between the table of phases and the files beside this one: what a phase is given, and what it makes of its data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from torch import nn

from trivium.batches.rows import BatchSharding, Fixed, Shuffled, with_sources
from trivium.corpus.records import read
from trivium.errors import DataError
from trivium.model.transformer import Transformer
from trivium.recipe.training import TrainingStage
from trivium.text.chat import ChatTokenizer
from trivium.train.machine import Machine, resolve
from trivium.types import Batches, Emit, Objective

C = TypeVar("C", bound=TrainingStage)
C_co = TypeVar("C_co", bound=TrainingStage, covariant=True)

VALIDATION_ITEMS = 256
"""Held-out rows or pairs that the loss is taken on before and after a phase."""


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


@dataclass(frozen=True, kw_only=True)
class PhaseContext(Generic[C_co]):
    """All that a phase is given."""

    config: C_co
    model: Transformer  # the one in training; at first it is the checkpoint that the phase starts from
    network: Any  # what the loop calls: `model`, or that and its scalar head (`Phase.network`)
    chat: ChatTokenizer
    data: Path  # a data artifact
    work: Path  # checkpoints of an earlier try are gone on from
    seed: int
    emit: Emit
    others: Mapping[str, Path] = field(default_factory=dict)  # artifacts of the stages that other fields name
    tokens: Path | None = None  # where the data's token shards are, or will be; None: in `work`
    peak: Callable[[str, str], float] = lambda precision, device: 1.0  # measured matmul peak, FLOP/s

    @property
    def length(self) -> int:
        """Tokens in a row, at most."""
        return self.config.context or self.model.config.context

    @cached_property
    def machine(self) -> Machine:
        return resolve(self.config)


@dataclass
class Items:
    """Training and held-out items of a phase, and what was dropped on the way.

    A shape of data whose batches are more than items in a shuffled order overrides `ordered`; one whose batches need the model in
    training, `live`; one of which a loss does not say enough, `measure`.
    """

    train: Rows
    heldout: Rows | None
    account: dict[str, Any]

    def ordered(self, sharding: BatchSharding, steps: int) -> Batches:
        """The batches of a run of so many steps on one rank."""
        return Shuffled(self.train.count, self.train.item, sharding)

    def live(self, batches: Batches, rows: Rows) -> Batches:
        """`batches` of `rows`, with what only the model in training can tell (`trivium.types.LiveBatches`)."""
        return batches

    def validation(self, micro: int) -> tuple[Batches | None, tuple[str, ...]]:
        """The held-out rows that the loss is taken on, and the sources they come from where there are several."""
        held = self.heldout
        if held is None:
            return None, ()
        count = min(held.count, VALIDATION_ITEMS)
        names, origins = tuple(getattr(held, "names", ())), getattr(held, "origins", None)
        if origins is None or len(names) < 2:
            return self.live(Fixed(count, held.item, micro), held), ()
        return self.live(Fixed(count, with_sources(held.item, origins), micro), held), names

    def close(self) -> None:
        """Ends what batches have left running, when training is over or has failed."""

    def measure(self) -> dict[str, float] | None:
        """What a loss cannot say (rewards on held-out prompts), asked before training and after it."""
        return None


def the_model(model: Transformer, config: TrainingStage) -> nn.Module:
    return model


@dataclass(frozen=True)
class Phase(Generic[C]):
    """One row of the table: a stage of the recipe, how its data becomes batches, and the objective that is minimised."""

    stage: type[C]
    batches: Callable[[PhaseContext[C]], Items]
    objective: Callable[[C], Objective]
    network: Callable[[Transformer, C], nn.Module] = the_model
    """What the loop calls: the model, or the model and its scalar head."""


def both_splits(build: Callable[[str, int | None], Any], ctx: PhaseContext[TrainingStage]) -> Items:
    """Items of the training split, and of the held-out one as many as a validation looks at.

    What is left out is said with its row numbers. `build` takes the split and how many items are wanted, None for all.

    DataError where the training split makes less than a batch. A held-out split in which nothing fits is done without.
    """
    train, batch = _one_split(build, ctx, "train"), ctx.config.batch
    if train.count < batch:
        raise DataError(
            f"the training split makes {train.count} rows or pairs, which is less than one batch of {batch}",
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


def _one_split(build: Callable[[str, int | None], Any], ctx: PhaseContext[TrainingStage], split: str) -> Any:
    try:
        rows = build(split, None if split == "train" else VALIDATION_ITEMS)
    except DataError as error:
        if error.where:
            error.where = f"{ctx.data / split}, {error.where}"
        raise
    if split == "train":
        rows.account.refuse_endless()
    if message := rows.account.warning(split, ctx.length):
        ctx.emit({"event": "warning", "message": message})
    return rows
