"""Rows into micro-batches: which items a step sees, and how they become tensors. Pure in (seed, step)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from trivium.seeds import generator
from trivium.types import Batch

Row = dict[str, NDArray[np.generic]]
"""One row of a Batch: each key of `trivium.types.Batch` without the B axis."""


@dataclass
class BatchSharding:
    """How a step's rows are cut: `batch` items a step over all ranks, `micro` items a forward pass.

    `total`: items of the whole run, None for as many as the steps hold. Where they are no whole number of batches, the last one
    is filled up with rows that weigh nothing, so that all steps, ranks and forward passes have the same shapes.
    """

    seed: int
    batch: int
    micro: int
    rank: int = 0
    world: int = 1
    total: int | None = None

    def __post_init__(self) -> None:
        if self.batch % self.world or (self.batch // self.world) % self.micro:
            raise ValueError(
                f"{self.batch} items do not divide into {self.world} ranks and micro-batches of {self.micro}"
            )

    def span(self, step: int) -> tuple[int, int]:
        """(place in the run of the first item of a step, items of the step over all ranks). After the last step the run begins
        again, `total` items further on: what takes the place of batches that were left out."""
        total = self.total or self.batch
        turn, inside = divmod(step, -(-total // self.batch))
        return turn * total + inside * self.batch, min(self.batch, total - inside * self.batch)

    def cut(self, step: int, item: Callable[[int], Sequence[Row]]) -> list[Batch]:
        """This rank's micro-batches of a step; `item` gives the rows of the item at a place in the run."""
        first, count = self.span(step)
        share = self.batch // self.world
        mine = range(self.rank * share, (self.rank + 1) * share)

        def rows(number: int) -> Sequence[Row]:
            return item(first + number) if number < count else weightless(item(first), number)

        return [collate(rows, mine[i : i + self.micro]) for i in range(0, share, self.micro)]


@dataclass
class Shuffled:
    """Items in an order that is new in every epoch; the last items of an epoch and the first of the next may share a step.
    The run ends with its last item (`BatchSharding.total`).

    `item(i)` gives the rows of item i (one row, or the two of a preference pair).
    """

    count: int
    item: Callable[[int], Sequence[Row]]
    sharding: BatchSharding
    period: int = 1

    def _index(self, position: int) -> int:
        epoch, place = divmod(position, self.count)
        if getattr(self, "_epoch", None) != epoch:
            self._epoch = epoch
            self._order = generator(self.sharding.seed, "order", epoch).permutation(self.count)
        return int(self._order[place])

    def describe(self, step: int) -> dict[str, list[int]]:
        """Which items a step sees, over all ranks: what the guard records of a batch that it refused."""
        first, count = self.sharding.span(step)
        return {"items": [self._index(first + i) for i in range(count)]}

    def batch(self, step: int) -> list[Batch]:
        return self.sharding.cut(step, lambda place: self.item(self._index(place)))


@dataclass
class Fixed:
    """The first `count` items in their own order, all of them in every batch: for validation.

    `names`: the sources that the rows' `source` counts, if they have it (`with_sources`).
    """

    count: int
    item: Callable[[int], Sequence[Row]]
    micro: int
    period: int = 1
    names: tuple[str, ...] = ()

    def batch(self, step: int) -> list[Batch]:
        return [
            collate(self.item, range(i, min(i + self.micro, self.count)))
            for i in range(0, self.count, self.micro)
        ]


def collate(item: Callable[[int], Sequence[Row]], indices: Sequence[int]) -> Batch:
    rows = [row for index in indices for row in item(index)]
    return {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}  # type: ignore[return-value]


def weightless(rows: Sequence[Row], number: int) -> list[Row]:
    """An item's rows made padding throughout, in which nothing is learned and nothing counts; a pair of its own, below 0."""
    nothing = {"loss_mask": 0, "doc_id": -1, "pair": -1 - number, "prefix": 0}
    return [
        {**row, **{name: np.full_like(row[name], value) for name, value in nothing.items() if name in row}}
        for row in rows
    ]


def with_sources(
    item: Callable[[int], Sequence[Row]], origins: Callable[[int], Sequence[int]]
) -> Callable[[int], Sequence[Row]]:
    """Items whose rows have `source`, too. `origins(i)`: the source of each document in item i's rows, or one for all."""

    def sourced(index: int) -> list[Row]:
        known = np.asarray(origins(index), dtype=np.int64)
        rows = []
        for row in item(index):
            number = row["doc_id"].astype(np.int64)
            sources = known[number.clip(0, len(known) - 1)]
            rows.append({**row, "source": np.where(number < 0, -1, sources)})
        return rows

    return sourced


def sequence_row(segments: Sequence[tuple[Sequence[int], Sequence[float]]], length: int, pad: int) -> Row:
    """Segments of (ids, learn) laid end to end in one row of `length` tokens, padded.

    Each segment is a document of its own: attention, positions and targets never cross its borders. A token with `learn`
    True, or a weight above 0, is one to be predicted, so it is the *target* of the place before it; a segment's first token is
    nobody's target.
    """
    tokens = np.full(length, pad, dtype=np.int64)
    targets = np.full(length, pad, dtype=np.int64)
    loss_mask = np.zeros(length, dtype=np.float32)
    positions = np.zeros(length, dtype=np.int64)
    doc_id = np.full(length, -1, dtype=np.int64)
    start = 0
    for number, (ids, learn) in enumerate(segments):
        end = start + len(ids)
        if end > length:
            raise ValueError(f"segments of {end} tokens do not fit a row of {length}")
        tokens[start:end] = ids
        targets[start : end - 1] = ids[1:]
        loss_mask[start : end - 1] = learn[1:]
        positions[start:end] = np.arange(len(ids))
        doc_id[start:end] = number
        start = end
    return {
        "tokens": tokens,
        "targets": targets,
        "loss_mask": loss_mask,
        "positions": positions,
        "doc_id": doc_id,
    }
