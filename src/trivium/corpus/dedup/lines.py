"""Lines that stand in many documents: counted across the corpus, then removed part by part."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from trivium.corpus import counts
from trivium.corpus.dedup import signatures
from trivium.corpus.write import Out, path_of, rows_of, written
from trivium.files import write_json
from trivium.recipe.data import DataStage
from trivium.recipe.dedup import Lines

LINES_AT_ONCE = 8_000_000
"""Hashes of lines that are counted in one query; more are counted in several, by ranges of the hash."""


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


@dataclass(frozen=True)
class Unline:
    """Removes repeated lines: read/PART -> lines/PART. `task` is {"number", "name"}."""

    config: DataStage
    seed: int
    source: Path
    target: Path
    repeated: Path
    """The hashes of `dedup.repeated_lines`, as a .npy file."""
    name: str = "lines"

    def __call__(self, task: str) -> None:
        said = json.loads(task)
        done = (self.target / said["name"]).with_suffix(".json")
        if done.exists():
            return
        names = ["documents", "marks", *(["rejects"] if self.config.keep_rejects else [])]
        result = written(done, names, lambda files: self._unline(said, files))
        write_json(done, result)

    def _unline(self, said: dict[str, Any], files: dict[str, Path]) -> dict[str, Any]:
        assert self.config.dedup and self.config.dedup.lines
        lines = self.config.dedup.lines
        repeated = np.load(self.repeated, mmap_mode="r", allow_pickle=False)
        out = Out(self.config, self.seed, said["number"], files, last=True)
        row = counts.row("lines")
        origin = self.source / said["name"]
        old = rows_of(path_of(origin, "documents"))
        for document, mark in zip(old, rows_of(path_of(origin, "marks")), strict=True):
            text = document["text"]
            counts.entered(row, counts.size(text))
            hashes = signatures.line_hashes(text, lines)
            at = np.minimum(np.searchsorted(repeated, hashes), max(0, len(repeated) - 1))
            hit = repeated[at] == hashes if len(repeated) else np.zeros(len(hashes), bool)
            if hit.any():
                pieces = signatures.split(text, lines)
                gone = signatures.join(
                    [piece for piece, out_ in zip(pieces, hit, strict=True) if out_], lines
                )
                counts.sample(row, "lines:repeated", document["key"], gone)
                row["lines"] += int(hit.sum())
                kept = [piece for piece, out_ in zip(pieces, hit, strict=True) if not out_]
                document["text"] = signatures.join(kept, lines).strip()
            if not document["text"]:
                counts.dropped(row, "lines:empty", document["key"], text)
                out.reject({**document, "text": text, "step": "lines", "reason": "lines:empty"})
                continue
            counts.left(row, counts.size(document["text"]))
            out.add({**document, "overlap": mark["overlap"]})
        out.close()
        return {"rows": out.rows, "steps": [row]}
