"""The marks of all documents, as columns: what is compared across a whole corpus instead of its text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trivium.corpus import extras


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
        with extras.needed("data", "pyarrow"):
            import pyarrow as pa
            import pyarrow.parquet as pq
        table = pa.concat_tables([pq.read_table(file, columns=names) for file in files])
        columns = {name: np.nan_to_num(table.column(name).to_numpy()) for name in names}
        order = np.argsort(columns["id"], kind="stable")
        return Marks(**{name: column[order] for name, column in columns.items()})

    def best_first(self) -> np.ndarray:
        """(N,) int64: the rank of each document among all, 0 the best."""
        order = np.lexsort((self.id, self.key_hash, -self.characters, -self.quality))
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        return rank
