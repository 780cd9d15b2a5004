"""Documents for pre-training: token shards read as rows of consecutive tokens."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trivium.batches.rows import Row, sequence_row
from trivium.corpus.shards import Shard, encode, open_shards
from trivium.errors import DataError
from trivium.seeds import generator
from trivium.text.chat import ChatTokenizer


class Packed:
    """Rows of `length` tokens cut from the documents of one source, which keep to themselves inside a row.

    Every token is in exactly one row; the last row is padded.
    """

    def __init__(self, shard: Shard, length: int) -> None:
        self.shard, self.length = shard, length
        self.tokens, self.starts = shard.tokens, shard.starts
        self.count = -(-len(self.tokens) // length)

    def documents(self, index: int) -> list[str]:
        """The keys of the documents in a row."""
        first = index * self.length
        end = min(first + self.length, len(self.tokens))
        low, high = np.searchsorted(self.starts, (first, end - 1), side="right")
        return [self.shard.key(document) for document in range(max(0, int(low) - 1), int(high))]

    def document(self, number: int) -> NDArray[np.int64]:
        """The ids of a document."""
        return np.asarray(self.tokens[slice(*self._span(number))], dtype=np.int64)

    def rows_of(self, number: int) -> range:
        """The rows that hold a part of a document."""
        first, end = self._span(number)
        return range(first // self.length, (end - 1) // self.length + 1)

    def _span(self, number: int) -> tuple[int, int]:
        end = self.starts[number + 1] if number + 1 < len(self.starts) else len(self.tokens)
        return int(self.starts[number]), int(end)

    def item(self, index: int) -> list[Row]:
        first = index * self.length
        # one token more than the row: the target of its last place, if that is in the same document
        ids = np.asarray(self.tokens[first : first + self.length + 1], dtype=np.int64)
        after, following = np.searchsorted(self.starts, (first, first + self.length), side="right")
        cuts = [int(cut) - first for cut in self.starts[after:following]]
        inner = [cut for cut in cuts if cut < self.length]
        edges = [0, *inner, min(self.length, len(ids))]
        segments = [(ids[a:b].tolist(), [True] * (b - a)) for a, b in pairwise(edges)]
        row = sequence_row(segments, self.length, pad=0)
        if (
            len(ids) > self.length and inner == cuts
        ):  # the following token goes on with this row's last document
            row["targets"][-1] = ids[-1]
            row["loss_mask"][-1] = 1.0
        return [row]


class Corpus:
    """All sources of a split. As one run of items (for validation) their rows stand in an order drawn once for all."""

    def __init__(self, sources: Sequence[Packed], length: int) -> None:
        self.sources, self.length = sources, length
        self.count = sum(source.count for source in sources)
        self.tokens_per_item = float(length)
        self.total_tokens = sum(len(source.tokens) for source in sources)
        self.names = [str(source.shard.source) for source in sources]  # better ones are in the data's account
        self._ends = list(accumulate(source.count for source in sources))
        self._order = None if self.count > 2**24 else generator(0, "validation").permutation(self.count)

    def place(self, index: int) -> tuple[int, int]:
        """(source, row of the source) of an item."""
        row = index if self._order is None else int(self._order[index])
        which = bisect_right(self._ends, row)
        return which, row - self._ends[which] + self.sources[which].count

    def items_of(self, documents: Iterable[tuple[int, int]]) -> NDArray[np.int64]:
        """The items that hold a part of one of the documents, which are given as (source, number)."""
        held = np.zeros(self.count, bool)
        places = {source.shard.source: place for place, source in enumerate(self.sources)}
        for number, document in documents:
            before = self._ends[places[number]] - self.sources[places[number]].count
            rows = self.sources[places[number]].rows_of(document)
            held[before + rows.start : before + rows.stop] = True
        return np.flatnonzero(held if self._order is None else held[self._order])

    def origins(self, index: int) -> list[int]:
        return [self.place(index)[0]]

    def item(self, index: int) -> list[Row]:
        which, row = self.place(index)
        return self.sources[which].item(row)


def open_corpus(
    split: Path, chat: ChatTokenizer, folder: Path, length: int, *, rows: int, what: str
) -> Corpus:
    """Encodes a split of a data artifact into `folder` (unless it is there) and opens it.

    DataError if it has fewer than `rows` rows: not one batch. ArtifactError if the shards are damaged.
    """
    encode(split, chat, folder)
    corpus = Corpus([Packed(shard, length) for shard in open_shards(folder)], length)
    if corpus.total_tokens < length * max(1, rows):
        raise DataError(
            f"{what} has {corpus.total_tokens} tokens, which is less than one batch ({rows} rows of {length} tokens)",
            fix="add sources, or make `batch` or `context` smaller",
        )
    return corpus
