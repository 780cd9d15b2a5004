"""Near-copies: locality-sensitive hashing of MinHash signatures, joined to clusters by connected components."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trivium.corpus import extras
from trivium.corpus.dedup.marks import Marks
from trivium.recipe.dedup import Fuzzy


@dataclass
class Clusters:
    """Groups of near-duplicates, the largest first."""

    count: int = 0
    sizes: dict[int, int] = field(default_factory=dict)
    """Size of a cluster -> how many there are."""
    largest: list[int] = field(default_factory=list)
    examples: list[list[int]] = field(default_factory=list)
    """Ids of a few clusters' documents, the one that is kept first."""


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
