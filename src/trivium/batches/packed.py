"""Documents for pre-training: token shards read as rows of consecutive tokens."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np

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
        self.total_tokens = sum(len(source.tokens) for source in sources)
        self._ends = list(accumulate(source.count for source in sources))
        self._order = None if self.count > 2**24 else generator(0, "validation").permutation(self.count)

    def item(self, index: int) -> list[Row]:
        row = index if self._order is None else int(self._order[index])
        which = bisect_right(self._ends, row)
        source = self.sources[which]
        return source.item(row - self._ends[which] + source.count)


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
