"""Duplicates across a whole corpus, found in columns of hashes: no text is read here.

Exact copies (URL, text), near-copies (locality-sensitive hashing of MinHash signatures, joined to clusters by connected
components) and lines that stand in many documents. Of each group the best copy stays: the highest quality score, then
the longest, then by the hash of its key, so that nothing depends on the order of reading.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from trivium.corpus import extras
from trivium.recipe.dedup import Dedup, Fuzzy, Lines

LINES_AT_ONCE = 8_000_000
"""Hashes of lines that are counted in one query; more are counted in several, by ranges of the hash."""


@dataclass
class Marks:
    """The marks of all documents: one entry of each array a document, ordered by id."""

    id: np.ndarray  # (N,) int64: part << 32 | row
    characters: np.ndarray  # (N,) int64
    bytes: np.ndarray  # (N,) int64: of UTF-8
    quality: np.ndarray  # (N,) float64: 0 where there is no score
    unit: np.ndarray  # (N,) float64 in [0, 1): decides the split
    order: np.ndarray  # (N,) uint64: the place in the artifact
    key_hash: np.ndarray  # (N,) uint64
    url_hash: np.ndarray  # (N,) uint64: 0 without URL
    text_high: np.ndarray  # (N,) uint64
    text_low: np.ndarray  # (N,) uint64
    overlap: np.ndarray  # (N,) uint64: evaluation stages met, one bit each

    @staticmethod
    def read(files: list[Path]) -> Marks:
        """From the parts' marks files."""
        names = list(Marks.__dataclass_fields__)
        if not files:
            return Marks(*(np.zeros(0, np.int64) for _ in names))
        with extras.needed("data", "daft"):
            import daft
        table = daft.read_parquet([str(file) for file in files]).select(*names).to_arrow()
        columns = {name: np.nan_to_num(table.column(name).to_numpy()) for name in names}
        order = np.argsort(columns["id"], kind="stable")
        return Marks(**{name: column[order] for name, column in columns.items()})

    def best_first(self) -> np.ndarray:
        """(N,) int64: the rank of each document among all, 0 the best."""
        order = np.lexsort((self.id, self.key_hash, -self.characters, -self.quality))
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        return rank


@dataclass
class Clusters:
    """Groups of near-duplicates, the largest first."""

    count: int = 0
    sizes: dict[int, int] = field(default_factory=dict)
    """Size of a cluster -> how many there are."""
    largest: list[int] = field(default_factory=list)
    examples: list[list[int]] = field(default_factory=list)
    """Ids of a few clusters' documents, the one that is kept first."""


def copies(alive: np.ndarray, rank: np.ndarray, *hashes: np.ndarray) -> np.ndarray:
    """(N,) bool: living documents whose hashes are those of a better living one.

    alive (N,) bool; rank (N,) int64; each of hashes (N,).
    """
    places = np.flatnonzero(alive)
    order = places[np.lexsort((rank[places], *(column[places] for column in reversed(hashes))))]
    same = np.ones(max(0, len(order) - 1), bool)
    for column in hashes:
        same &= column[order[1:]] == column[order[:-1]]
    result = np.zeros(len(alive), bool)
    result[order[1:][same]] = True
    return result


def near_copies(
    files: list[Path], config: Fuzzy, marks: Marks, alive: np.ndarray, rank: np.ndarray
) -> tuple[np.ndarray, Clusters]:
    """(N,) bool of living documents that are near-duplicates of a better one, and the clusters."""
    edges = [_bucket_edges(files, f"band{band:02d}", marks.id, alive) for band in range(config.bands)]
    pairs = np.unique(np.concatenate([np.zeros((0, 2), np.int64), *edges]), axis=0)
    if config.similarity is not None and len(pairs):
        pairs = pairs[_similarity(files, marks.id, pairs) >= config.similarity]
    return components(pairs, marks.id, rank)


def _bucket_edges(files: list[Path], band: str, ids: np.ndarray, alive: np.ndarray) -> np.ndarray:
    """(edges, 2) int64: each living document of a bucket with its first, and with the one before it."""
    import daft
    from daft import col

    frame = daft.read_parquet([str(file) for file in files]).select("id", band).where(f"{band} != 0")
    many = frame.groupby(band).agg(col("id").count().alias("found")).where("found > 1")
    crowded = many.select(band)
    table = frame.join(crowded, on=band).to_arrow()
    found, bucket = table.column("id").to_numpy(), table.column(band).to_numpy()
    places = np.searchsorted(ids, found)
    living = alive[places]
    places, bucket = places[living], bucket[living]
    order = np.lexsort((places, bucket))
    places, bucket = places[order], bucket[order]
    if len(places) == 0:
        return np.zeros((0, 2), np.int64)
    begins = np.concatenate(([True], bucket[1:] != bucket[:-1]))
    first = places[np.maximum.accumulate(np.where(begins, np.arange(len(places)), 0))]
    star = np.stack((first, places), axis=1)[~begins]
    chain = np.stack((places[:-1], places[1:]), axis=1)[~begins[1:]]
    return np.unique(np.concatenate((star, chain)), axis=0).astype(np.int64)


def _similarity(files: list[Path], ids: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """(pairs,) float64: the share of equal hashes, an estimate of the Jaccard similarity of the n-grams."""
    import pyarrow.parquet as pq

    wanted = np.unique(pairs)
    found: np.ndarray | None = None
    for path in files:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(10_000, columns=["id", "signature"]):
                places = np.searchsorted(ids, batch.column("id").to_numpy())
                at = np.searchsorted(wanted, places)
                hit = (at < len(wanted)) & (wanted[np.minimum(at, len(wanted) - 1)] == places)
                if hit.any():
                    column: Any = batch.column("signature")
                    signature = np.asarray(column.flatten()).reshape(len(batch), -1)[hit]
                    if found is None:
                        found = np.zeros((len(wanted), signature.shape[1]), np.uint32)
                    found[at[hit]] = signature
    assert found is not None
    result = np.empty(len(pairs))
    for start in range(0, len(pairs), 100_000):
        left, right = np.searchsorted(wanted, pairs[start : start + 100_000]).T
        result[start : start + 100_000] = (found[left] == found[right]).mean(axis=1)
    return result


EXAMPLES, EXAMPLE_KEYS = 5, 5


def components(pairs: np.ndarray, ids: np.ndarray, rank: np.ndarray) -> tuple[np.ndarray, Clusters]:
    """(N,) bool of documents connected to a better one by `pairs` (pairs, 2) of places, and the clusters."""
    with extras.needed("data", "scipy"):
        from scipy.sparse import coo_matrix
        from scipy.sparse.csgraph import connected_components
    dropped = np.zeros(len(ids), bool)
    if not len(pairs):
        return dropped, Clusters()
    members = np.unique(pairs)
    left, right = np.searchsorted(members, pairs).T
    graph = coo_matrix((np.ones(len(pairs), bool), (left, right)), shape=(len(members), len(members)))
    count, label = connected_components(graph, directed=False)
    order = np.lexsort((rank[members], label))
    begins = np.concatenate(([True], label[order][1:] != label[order][:-1]))
    dropped[members[order[~begins]]] = True
    sizes = np.bincount(label)
    starts = np.flatnonzero(begins)
    best = sorted(
        range(count),
        key=lambda c: (-int(sizes[label[order[starts[c]]]]), int(rank[members[order[starts[c]]]])),
    )
    tally = np.bincount(sizes)
    clusters = Clusters(
        count=count,
        sizes={int(size): int(tally[size]) for size in np.flatnonzero(tally)},
        largest=[int(sizes[label[order[starts[c]]]]) for c in best[:10]],
        examples=[
            [
                int(ids[members[place]])
                for place in order[starts[c] : starts[c] + sizes[label[order[starts[c]]]]][:EXAMPLE_KEYS]
            ]
            for c in best[:EXAMPLES]
        ],
    )
    return dropped, clusters


def repeated_lines(files: list[Path], config: Lines, total: int) -> np.ndarray:
    """(lines,) uint64, ascending: hashes that stand in more than `config.documents` documents.

    `files`: a hash for each different line of each document; `total` of them in all. Ranges of the hash are counted one
    after the other, so memory does not grow with the corpus.
    """
    if not files or not total:
        return np.zeros(0, np.uint64)
    import daft
    from daft import DataType, col, lit

    ranges = -(-total // LINES_AT_ONCE)
    edges = [(2**64 * i) // ranges for i in range(ranges + 1)]
    result = [np.zeros(0, np.uint64)]
    for low, high in pairwise(edges):
        frame = daft.read_parquet([str(file) for file in files])
        if ranges > 1:
            below = lit(high - 1).cast(DataType.uint64())
            frame = frame.where((col("hash") >= lit(low).cast(DataType.uint64())) & (col("hash") <= below))
        many = (
            frame.groupby("hash").agg(col("hash").count().alias("found")).where(f"found > {config.documents}")
        )
        result.append(many.select("hash").to_arrow().column("hash").to_numpy())
    return np.sort(np.concatenate(result))


@dataclass
class Verdict:
    """What deduplication decided."""

    reason: np.ndarray  # (N,) uint8: 0 kept, else the place in REASONS
    clusters: Clusters


REASONS = ("", "url", "exact", "fuzzy")


def find(files: list[Path], config: Dedup | None, marks: Marks, made_up: np.ndarray) -> Verdict:
    """Which documents are copies, in the order URL, text, near-duplicate; each looks only at what is left.

    `made_up` (N,) bool: documents of fixed forms (reasoning tasks), which are alike without being copies.
    """
    reason = np.zeros(len(marks.id), np.uint8)
    clusters = Clusters()
    if config is None or not len(marks.id):
        return Verdict(reason, clusters)
    rank = marks.best_first()
    if config.url:
        reason[copies(marks.url_hash != 0, rank, marks.url_hash)] = 1
    if config.exact:
        reason[copies(reason == 0, rank, marks.text_high, marks.text_low)] = 2
    if config.fuzzy:
        found, clusters = near_copies(files, config.fuzzy, marks, (reason == 0) & ~made_up, rank)
        reason[found] = 3
    return Verdict(reason, clusters)
