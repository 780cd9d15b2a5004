"""What a phase's batches are made from, and what its builder gives: the words between `phases.py` and the files beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from trivium.batches.rows import Layout
from trivium.errors import DataError
from trivium.model.transformer import Transformer
from trivium.recipe.training import TrainingStage
from trivium.text.chat import ChatTokenizer
from trivium.train.machine import Machine
from trivium.types import Batches, Emit

Score = Callable[[Mapping[str, Any], str], float]
"""A reward as a function of (data record, reply)."""


class Rows(Protocol):
    """Items that a phase trains on, each one row or several."""

    length: int  # tokens in a row

    @property
    def count(self) -> int: ...
    def item(self, index: int) -> Any: ...  # Sequence[Row]


Some = TypeVar("Some", bound=Rows)


@dataclass(frozen=True)
class Source:
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
    around: Callable[[Batches], Batches] = lambda batches: batches
    online: Callable[[Layout, int], Batches] | None = None
    measure: Callable[[], dict[str, float]] | None = None


def enough(rows: Some, source: Source) -> Some:
    """The training split's items. DataError if they do not fill one batch."""
    if rows.count < source.batch:
        raise DataError(
            f"the training split makes {rows.count} rows or pairs, which is less than one batch of {source.batch}",
            fix="add sources, or make `batch` smaller",
        )
    return rows
