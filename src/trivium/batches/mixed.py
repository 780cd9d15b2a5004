"""Which row of which source every place of a run shows: a mix of token shards, decided before the first step.

The run's rows are cut into blocks. Each block takes a whole number of rows of each source such that what has been taken
so far follows the weights as closely as whole rows can; inside a block the order is drawn. So the batch of a step is a
pure function of (seed, step), the shares of the whole run are known exactly before it starts, and nothing but one small
table of counts is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from trivium.batches.rows import BatchSharding, Row
from trivium.errors import DataError
from trivium.seeds import generator
from trivium.types import Batch

BLOCK, BLOCKS = 1024, 64
"""Most rows of a block, and fewest blocks of a run: a curriculum's turns end where a block does."""


def block_of(rows: int) -> int:
    """Rows of a block in a run of `rows`."""
    return max(1, min(BLOCK, rows // BLOCKS))


@dataclass(frozen=True)
class Span:
    """A part of the run with weights of its own: up to `until` (0 to 1) of its rows."""

    until: float
    weights: tuple[float, ...]


def tempered(weights: Sequence[float], temperature: float) -> tuple[float, ...]:
    """Shares of `weights` flattened: p_i^(1/T), scaled to add up to 1 (Devlin et al. 2018; XLM, Conneau & Lample 2019)."""
    raised = (np.asarray(weights, np.float64) / np.sum(weights)) ** (1 / temperature)
    return tuple((raised / raised.sum()).tolist())


def plan(
    counts: Sequence[int], spans: Sequence[Span], rows: int, max_epochs: float | None = None
) -> np.ndarray:
    """(blocks + 1, sources) int64: rows taken of each source before each block; the last line is the whole run.

    `counts` are the rows that each source has, `rows` those of the run. A source that has been shown `max_epochs` times
    gives no more; the others take its place in proportion to their weights. DataError if all together are too few.
    """
    have = np.asarray(counts, np.int64)
    limit = np.full(len(have), np.iinfo(np.int64).max)
    if max_epochs is not None:
        limit = np.floor(have * max_epochs).astype(np.int64)
    limit[have == 0] = 0
    table = [np.zeros(len(have), np.int64)]
    owed = np.zeros(len(have))
    block = block_of(rows)
    for start in range(0, rows, block):
        size = min(block, rows - start)
        weights = _weights(spans, start / rows, (start + size) / rows)
        wanted = owed + size * weights / weights.sum()
        taken = np.zeros(len(have), np.int64)
        while (need := size - int(taken.sum())) > 0:
            room = limit - table[-1] - taken
            open_ = (room > 0) & (weights > 0)
            if not open_.any():
                raise _too_few(have, rows, max_epochs)
            part = np.where(open_, np.maximum(wanted - taken, 0.0), 0.0)
            part = part if part.sum() > 0 else np.where(open_, weights, 0.0)
            taken += np.minimum(_whole(part, need), room)
        owed = np.clip(wanted - taken, -len(have), len(have))  # what a limit withheld is not owed for ever
        table.append(table[-1] + taken)
    return np.stack(table)


def _weights(spans: Sequence[Span], start: float, end: float) -> np.ndarray:
    """The shares of the part of the run from `start` to `end`: those of the spans it lies in, by how much of each."""
    total, before = np.zeros(len(spans[0].weights)), 0.0
    for span in spans:
        inside = min(end, span.until) - max(start, before)
        if inside > 0:
            weights = np.asarray(span.weights, np.float64)
            total += inside * weights / weights.sum()
        before = span.until
    return total


def _whole(wanted: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers that add up to `total`, in proportion to `wanted` as near as they can be (largest remainders)."""
    scaled = wanted * (total / wanted.sum())
    parts: np.ndarray = np.floor(scaled + 1e-9).astype(np.int64)
    order = np.lexsort((np.arange(len(wanted)), -(scaled - parts), wanted <= 0))
    parts[order[: total - int(parts.sum())]] += 1
    return parts


def _too_few(have: np.ndarray, rows: int, max_epochs: float | None) -> DataError:
    return DataError(
        f"the run wants {rows:,} rows, the sources have {int(have.sum()):,} and may be shown {max_epochs} times",
        where="mix: max_epochs",
        fix="train for less, raise `mix.max_epochs`, or add documents",
    )


@dataclass
class Mixed:
    """Batches of rows from several sources. `items[s](i)` gives the rows of item i of source s, `counts[s]` how many there
    are, `table` is `plan`'s. Each source's items come in an order that is new in every epoch of that source."""

    counts: Sequence[int]
    items: Sequence[Callable[[int], Sequence[Row]]]
    table: np.ndarray
    sharding: BatchSharding
    period: int = 1
    _orders: dict[tuple[int, int], np.ndarray] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self._block = lru_cache(maxsize=4)(self._draw)

    def _draw(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """(source, number of the draw from that source) of each place of a block."""
        taken = self.table[block + 1] - self.table[block]
        seed = self.sharding.seed
        source = generator(seed, "block", block).permutation(np.repeat(np.arange(len(taken)), taken))
        number = np.zeros(len(source), np.int64)
        for drawn in np.flatnonzero(taken):
            number[source == drawn] = self.table[block, drawn] + np.arange(taken[drawn])
        return source, number

    def _order(self, source: int, epoch: int) -> np.ndarray:
        if (source, epoch) not in self._orders:
            for old in [key for key in self._orders if key[0] == source and key[1] < epoch - 1]:
                del self._orders[old]
            which = (source, epoch) if len(self.counts) > 1 else (epoch,)  # one source alone is `Shuffled`
            drawn = generator(self.sharding.seed, "order", *which).permutation(self.counts[source])
            self._orders[source, epoch] = drawn
        return self._orders[source, epoch]

    def shows(self, source: int, epoch: int, first: int, item: int) -> bool:
        """Whether an item is among the first ones of an epoch."""
        return item in self._order(source, epoch)[:first]

    def place(self, position: int) -> tuple[int, int]:
        """(source, item) of the row at a position of the run: step x batch + row."""
        rows = int(self.table[-1].sum())
        turn, position = divmod(position, rows)  # a step after the last starts over: only a test asks for it
        block, inside = divmod(position, block_of(rows))
        sources, numbers = self._block(block)
        source = int(sources[inside])
        epoch, place = divmod(int(numbers[inside] + turn * self.table[-1, source]), self.counts[source])
        return source, int(self._order(source, epoch)[place])

    def places(self, step: int) -> list[tuple[int, int]]:
        """(source, item) of each row of a step, of all ranks."""
        first, count = self.sharding.span(step)
        return [self.place(first + row) for row in range(count)]

    def batch(self, step: int) -> list[Batch]:
        return self.sharding.cut(step, self._rows)

    def _rows(self, position: int) -> Sequence[Row]:
        source, item = self.place(position)
        return self.items[source](item)
