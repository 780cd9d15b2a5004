"""The files of a run: what a part is written to, and from there, in an order of hashes, to the files of the artifact.

    PART.parquet          the rows that are kept
    PART.marks.parquet    their marks (hashes, bands), small enough to be looked at for the whole corpus
    PART.lines.parquet    hashes of lines, if repeated lines are removed
    PART.rejects.parquet  what was dropped, with step and reason, if it is kept
    PART.json             counters, dead letters; written last: its presence means that the part is done

An order that only hashes decide needs every file of the artifact to take from every part. So each part first writes its rows
by file (a row group each: `Deal`), then each file gathers its row groups (`Gather`): nobody ever holds more than a file.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from trivium import keys, seeds
from trivium.corpus import counts, extras
from trivium.corpus.dedup import signatures
from trivium.corpus.readers import Document, Part
from trivium.corpus.records import Record
from trivium.corpus.records import write as write_lines
from trivium.files import atomic_path, write_json
from trivium.recipe.data import DataStage
from trivium.recipe.dedup import Dedup

if TYPE_CHECKING:
    import pyarrow as pa

GROUP_CHARACTERS, GROUP_ROWS = 4_000_000, 1000
"""What is in memory at once, and a row group of Parquet."""
CHUNK = 32_000_000
"""Characters of a part that are dealt out at once."""
ARTIFACT_ROWS = 512
"""Rows of a row group in the artifact."""
COLUMNS = (
    *("key", "url", "text", "source", "kind", "license", "origin", "language", "language_score"),
    *("quality", "meta", "where"),
)
"""The columns of an artifact of documents."""
REJECTED = ("key", "url", "text", "source", "kind", "where", "step", "reason")


def columns(format: str) -> tuple[str, ...]:
    """What is kept of a row between the steps: of formats other than documents the record as JSON besides."""
    return COLUMNS if format == "documents" else (*COLUMNS, "record")


def schema(names: tuple[str, ...]) -> pa.Schema:
    with extras.needed("data", "pyarrow"):
        import pyarrow as pa
    types = {"source": pa.int32(), "language_score": pa.float64(), "quality": pa.float64()}
    return pa.schema([(name, types.get(name, pa.string())) for name in names])


def marks_schema(dedup: Dedup | None) -> pa.Schema:
    import pyarrow as pa

    names = [
        ("id", pa.int64()),
        ("characters", pa.int64()),
        ("bytes", pa.int64()),
        ("quality", pa.float64()),
        ("unit", pa.float64()),
    ]
    names += [(name, pa.uint64()) for name in ("order", "key_hash", "url_hash", "text_high", "text_low")]
    names += [("overlap", pa.uint64())]
    fuzzy = dedup.fuzzy if dedup else None
    if fuzzy:
        names += [(f"band{band:02d}", pa.uint64()) for band in range(fuzzy.bands)]
        if fuzzy.similarity is not None:
            names += [("signature", pa.list_(pa.uint32(), fuzzy.bands * fuzzy.rows))]
    return pa.schema(names)


def name_of(part: Part) -> str:
    return f"{part.source:03d}-{part.index:07d}"


class Out:
    """The files of one part, written group by group. Rows get ids: place of the part << 32 | row."""

    def __init__(self, config: DataStage, seed: int, number: int, files: dict[str, Path], last: bool) -> None:
        with extras.needed("data", "pyarrow"):
            import pyarrow.parquet as pq
        self.config, self.seed, self.number = config, seed, number
        self.columns = columns(config.format)
        self.dedup = config.dedup
        self.lines = self.dedup.lines if self.dedup and not last else None
        self.documents: list[Document] = []
        self.rejects: list[Document] = []
        self.size, self.rows = 0, 0
        self.rejected = schema(REJECTED)
        schemas = {
            "documents": schema(self.columns),
            "marks": marks_schema(self.dedup),
            "rejects": self.rejected,
        }
        import pyarrow as pa

        schemas["lines"] = pa.schema([("hash", pa.uint64())])
        self.writers = {
            name: pq.ParquetWriter(path, schemas[name], compression="zstd", compression_level=1)
            for name, path in files.items()
        }

    def add(self, document: Document) -> None:
        self.documents.append(document)
        self._grown(document)

    def reject(self, document: Document) -> None:
        if "rejects" in self.writers:
            self.rejects.append(document)
            self._grown(document)

    def _grown(self, document: Document) -> None:
        self.size += len(document["text"])
        if self.size >= GROUP_CHARACTERS or len(self.documents) + len(self.rejects) >= GROUP_ROWS:
            self.flush()

    def flush(self) -> None:
        import pyarrow as pa

        if self.rejects:
            clean = [{name: row[name] for name in REJECTED} for row in self.rejects]
            self.writers["rejects"].write_table(pa.Table.from_pylist(clean, self.rejected))
        if self.documents:
            table = pa.Table.from_pylist(
                [{name: row[name] for name in self.columns} for row in self.documents], schema(self.columns)
            )
            self.writers["documents"].write_table(table)
            self.writers["marks"].write_table(self._marks())
            if self.lines:
                hashes = [
                    np.unique(signatures.line_hashes(row["text"], self.lines)) for row in self.documents
                ]
                found = np.concatenate(hashes)
                self.writers["lines"].write_table(
                    pa.table({"hash": pa.array(found[found != 0], pa.uint64())})
                )
        self.documents, self.rejects, self.size = [], [], 0

    def _marks(self) -> pa.Table:
        import pyarrow as pa

        rows = self.documents
        texts = [signatures.text_hash(row["text"]) for row in rows]
        first = (self.number << 32) + self.rows
        self.rows += len(rows)
        columns: dict[str, Any] = {
            "id": np.arange(first, first + len(rows), dtype=np.int64),
            "characters": [len(row["text"]) for row in rows],
            "bytes": [counts.size(row["text"])[1] for row in rows],
            "quality": [row["quality"] for row in rows],
            "unit": [keys.split(row["key"]) for row in rows],
            "order": [
                seeds.derive(self.seed, "order", row["key"], *self._within(high))
                for row, (high, _) in zip(rows, texts, strict=True)
            ],
            "key_hash": [signatures.key_hash(row["key"]) for row in rows],
            "url_hash": [signatures.url_hash(row["url"]) for row in rows],
            "text_high": [high for high, _ in texts],
            "text_low": [low for _, low in texts],
            "overlap": [row.get("overlap", 0) for row in rows],
        }
        fuzzy = self.dedup.fuzzy if self.dedup else None
        if fuzzy:
            hashes = (
                np.full((len(rows), fuzzy.bands * fuzzy.rows), signatures.EMPTY)  # the lines are still to go
                if self.lines
                else signatures.signatures([row["text"] for row in rows], fuzzy)
            )
            for band, column in enumerate(signatures.bands(hashes, fuzzy).T):
                columns[f"band{band:02d}"] = column
            if fuzzy.similarity is not None:
                columns["signature"] = pa.FixedSizeListArray.from_arrays(hashes.ravel(), hashes.shape[1])
        plan = marks_schema(self.dedup)
        return pa.table([pa.array(columns[field.name], field.type) for field in plan], schema=plan)

    def _within(self, text: int) -> tuple[int, ...]:
        """Replies to one prompt share its key, and are not to stand side by side for that."""
        return () if self.config.format == "documents" else (text,)

    def close(self) -> None:
        self.flush()
        for writer in self.writers.values():
            writer.close()


def written(target: Path, names: list[str], work: Any) -> dict[str, Any]:
    """Calls `work` with a temporary file for each name; renames all of them when it is through."""
    with contextlib.ExitStack() as stack:
        files = {name: stack.enter_context(atomic_path(path_of(target, name))) for name in names}
        result: dict[str, Any] = work(files)
    return result


def path_of(target: Path, name: str) -> Path:
    return target.with_suffix(".parquet" if name == "documents" else f".{name}.parquet")


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file, a group in memory."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            yield from file.read_row_group(group).to_pylist()


@dataclass(frozen=True)
class Deal:
    """Writes a part's documents by shard: `task` is {"name", "from", "start", "rows"}: what was left
    of the part, without its ending, and its place in the plan."""

    config: DataStage
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
        plan = schema(columns(self.config.format)).append(pa.field("order", pa.uint64()))
        tally = Tally()
        groups: dict[int, list[int]] = {}
        done = written_groups = 0
        rejects = (
            pq.ParquetWriter(files["rejects"], schema(REJECTED), compression="zstd")
            if "rejects" in files
            else None
        )
        with (
            pq.ParquetFile(path_of(Path(said["from"]), "documents")) as old,
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
    """Writes one file of the artifact: `task` is {"file": name, "parts": [[name of part, [row groups]], ...],
    "planted": rows that are in no part}."""

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
        if not tables:
            write_lines(path, ())
            return
        if said.get("planted"):
            tables.append(pa.Table.from_pylist(said["planted"], tables[0].schema))
        table = pa.concat_tables(tables)
        order = np.lexsort((np.arange(len(table)), table.column("order").to_numpy()))
        table = table.take(pa.array(order))
        if path.suffix == ".jsonl":
            write_lines(path, map(_line, table.to_pylist()))
            return
        table = table.select(list(COLUMNS))
        with (
            atomic_path(path) as temporary,
            pq.ParquetWriter(temporary, table.schema, compression="zstd") as new,
        ):
            new.write_table(table, row_group_size=ARTIFACT_ROWS)


def _line(row: dict[str, Any]) -> Record:
    """A row of the artifact, of formats other than documents."""
    known = {name: row[name] for name in ("language", "language_score", "quality") if row[name] is not None}
    return {
        "key": row["key"],
        "source": row["kind"],
        "license": row["license"],
        "origin": row["origin"],
        **json.loads(row["record"]),
        "where": row["where"],
        **known,
    }
