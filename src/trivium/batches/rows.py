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
    """How a step's rows are cut: `batch` items a step over all ranks, `micro` items a forward pass."""

    seed: int
    batch: int
    micro: int
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if self.batch % self.world or (self.batch // self.world) % self.micro:
            raise ValueError(
                f"{self.batch} items do not divide into {self.world} ranks and micro-batches of {self.micro}"
            )


@dataclass
class Shuffled:
    """Items in an order that is new in every epoch; the last items of an epoch and the first of the next may share a step.

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
        first = step * self.sharding.batch
        return {"items": [self._index(first + i) for i in range(self.sharding.batch)]}

    def batch(self, step: int) -> list[Batch]:
        share = self.sharding.batch // self.sharding.world
        first = step * self.sharding.batch + self.sharding.rank * share
        indices = [self._index(first + i) for i in range(share)]
        return [
            collate(self.item, indices[i : i + self.sharding.micro])
            for i in range(0, share, self.sharding.micro)
        ]


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


def with_sources(
    item: Callable[[int], Sequence[Row]], origins: Callable[[int], Sequence[int]]
) -> Callable[[int], Sequence[Row]]:
    """Items whose rows have `source`, too. `origins(i)`: the source of each document in item i's rows, or one for all."""

    def sourced(index: int) -> list[Row]:
        known = np.asarray(origins(index), dtype=np.int64)
        rows = []
        for row in item(index):
            number = row["doc_id"].astype(np.int64)
            found = known[number.clip(0, len(known) - 1)]
            rows.append({**row, "source": np.where(number < 0, -1, found)})
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
