"""From parts to the artifact's files: repeated lines go, documents are dealt out to shards, shards are put in order.

An order that only hashes decide needs every shard to take from every part. So each part first writes its documents by
shard (a row group each), then each shard gathers its row groups: nobody ever holds more than a shard.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from trivium.corpus import counts, marks
from trivium.corpus.parts import COLUMNS, REJECTED, Out, path_of, rows_of, schema, written
from trivium.files import atomic_path, write_json
from trivium.recipe.data import DataStage

CHUNK = 32_000_000
"""Characters of a part that are dealt out at once."""
GROUP_ROWS = 512
"""Rows of a row group in the artifact."""


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
            hashes = marks.line_hashes(text, lines)
            at = np.minimum(np.searchsorted(repeated, hashes), max(0, len(repeated) - 1))
            hit = repeated[at] == hashes if len(repeated) else np.zeros(len(hashes), bool)
            if hit.any():
                pieces = marks.split(text, lines)
                gone = marks.join([piece for piece, out_ in zip(pieces, hit, strict=True) if out_], lines)
                counts.sample(row, "lines:repeated", document["key"], gone)
                row["reasons"]["lines:repeated"] = row["reasons"].get("lines:repeated", 0) + int(hit.sum())
                kept = [piece for piece, out_ in zip(pieces, hit, strict=True) if not out_]
                document["text"] = marks.join(kept, lines).strip()
            if not document["text"]:
                counts.dropped(row, "lines:empty", document["key"], text)
                out.reject({**document, "text": text, "step": "lines", "reason": "lines:empty"})
                continue
            counts.left(row, counts.size(document["text"]))
            out.add({**document, "overlap": mark["overlap"]})
        out.close()
        return {"rows": out.rows, "steps": [row]}


@dataclass(frozen=True)
class Deal:
    """Writes a part's documents by shard: `task` is {"name", "start", "rows"} with the part's place in the plan."""

    config: DataStage
    source: Path
    target: Path
    plan: Path
    """Folder with shard.npy (N,) int32, -1 where dropped, reason.npy (N,) uint8 and order.npy (N,) uint64."""
    reasons: tuple[tuple[str, str], ...]
    """(step, reason) by the numbers in reason.npy."""
    training: int
    """Shards below this number are for training."""
    name: str = "deal"

    def __call__(self, task: str) -> None:
        said = json.loads(task)
        done = (self.target / said["name"]).with_suffix(".json")
        if done.exists():
            return
        names = ["documents", *(["rejects"] if self.config.keep_rejects else [])]
        write_json(done, written(done, names, lambda files: self._deal(said, files)))

    def _deal(self, said: dict[str, Any], files: dict[str, Path]) -> dict[str, Any]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = slice(said["start"], said["start"] + said["rows"])
        shard, reason, order = (
            np.load(self.plan / f"{name}.npy", mmap_mode="r", allow_pickle=False)[rows]
            for name in ("shard", "reason", "order")
        )
        plan = schema(COLUMNS).append(pa.field("order", pa.uint64()))
        tally = Tally()
        groups: dict[int, list[int]] = {}
        done = written_groups = 0
        rejects = (
            pq.ParquetWriter(files["rejects"], schema(REJECTED), compression="zstd")
            if "rejects" in files
            else None
        )
        with (
            pq.ParquetFile(path_of(self.source / said["name"], "documents")) as old,
            pq.ParquetWriter(files["documents"], plan, compression="zstd", compression_level=1) as new,
        ):
            for table in _chunks(old):
                here = slice(done, done + len(table))
                done += len(table)
                table = table.append_column("order", pa.array(order[here]))
                for number in np.unique(shard[here]).tolist():
                    part = table.filter(pa.array(shard[here] == number))
                    if number >= 0:
                        new.write_table(part, row_group_size=len(part))
                        groups.setdefault(number, []).append(written_groups)
                        written_groups += 1
                        tally.kept(part, number < self.training)
                    else:
                        why = [self.reasons[code] for code in reason[here][shard[here] == number].tolist()]
                        tally.dropped(part, why)
                        if rejects is not None:
                            rejects.write_table(_rejected(part, why))
        if rejects is not None:
            rejects.close()
        return {"groups": {str(number): found for number, found in groups.items()}, **vars(tally)}


def _rejected(table: Any, why: list[tuple[str, str]]) -> Any:
    import pyarrow as pa

    extra = {"step": pa.array([step for step, _ in why]), "reason": pa.array([reason for _, reason in why])}
    return pa.table({name: extra[name] if name in extra else table.column(name) for name in REJECTED})


def _chunks(file: Any) -> Any:
    """Tables of at least CHUNK characters, whole row groups each; the last one may be smaller."""
    import pyarrow as pa

    held, size = [], 0
    for group in range(file.num_row_groups):
        held.append(file.read_row_group(group))
        size += held[-1].nbytes
        if size >= CHUNK or group == file.num_row_groups - 1:
            yield pa.concat_tables(held)
            held, size = [], 0


class Tally:
    """What the account says about documents: languages, lengths, domains, licences, samples of global drops."""

    def __init__(self) -> None:
        self.languages: dict[str, int] = {}
        self.lengths: dict[str, int] = {}
        self.domains: dict[str, int] = {}
        self.licenses: dict[str, dict[str, int]] = {}
        self.samples: dict[str, list[dict[str, str]]] = {}

    def kept(self, table: Any, training: bool) -> None:
        if not training:
            return
        columns = [table.column(name).to_pylist() for name in ("language", "url", "license", "source")]
        import pyarrow.compute as pc

        lengths = pc.utf8_length(table.column("text")).to_pylist()
        for language, url, licence, source, length in zip(*columns, lengths, strict=True):
            _add(self.languages, language or "unknown")
            _add(self.lengths, str(1 << max(0, length - 1).bit_length()))
            if url and (domain := _domain(url)):
                _add(self.domains, domain)
            _add(self.licenses.setdefault(str(source), {}), licence, length)

    def dropped(self, table: Any, why: list[tuple[str, str]]) -> None:
        for place, (_, reason) in enumerate(why):
            kept = self.samples.setdefault(reason, [])
            if len(kept) < counts.SAMPLES:
                row = table.slice(place, 1).to_pylist()[0]
                kept.append({"key": row["key"], "text": row["text"][: counts.SAMPLE_TEXT]})


def _add(counter: dict[str, int], name: str, count: int = 1) -> None:
    counter[name] = counter.get(name, 0) + count


def _domain(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


@dataclass(frozen=True)
class Gather:
    """Writes one file of the artifact: `task` is {"file": name, "parts": [[name of part, [row groups]], ...]}."""

    source: Path
    target: Path
    name: str = "gather"

    def __call__(self, task: str) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        said = json.loads(task)
        path = self.target / said["file"]
        if path.exists():
            return
        tables = []
        for name, groups in said["parts"]:
            with pq.ParquetFile(path_of(self.source / name, "documents")) as file:
                tables.append(file.read_row_groups(groups))
        table = pa.concat_tables(tables)
        order = np.lexsort((np.arange(len(table)), table.column("order").to_numpy()))
        table = table.take(pa.array(order)).select(list(COLUMNS))
        with (
            atomic_path(path) as temporary,
            pq.ParquetWriter(temporary, table.schema, compression="zstd") as new,
        ):
            new.write_table(table, row_group_size=GROUP_ROWS)
