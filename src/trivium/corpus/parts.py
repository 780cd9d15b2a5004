"""Reading a part: source, extraction and all steps on each document, in one process; one part is one set of files.

PART.parquet       the documents that are kept, with their marks (hashes, bands)
PART.marks.parquet the marks alone, small enough to be looked at for the whole corpus
PART.lines.parquet hashes of lines, if repeated lines are removed
PART.rejects.parquet  what was dropped, with step and reason, if it is kept
PART.json          counters, dead letters; written last: its presence means that the part is done
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trivium import keys, seeds
from trivium.corpus import counts, extras, marks, readers
from trivium.corpus.contamination import Evaluated
from trivium.corpus.dead_letters import DeadLetters
from trivium.corpus.readers import Document, Part, Setting
from trivium.corpus.steps import build_steps
from trivium.corpus.steps.quality import keep
from trivium.files import atomic_path, write_json
from trivium.recipe.data import DataStage
from trivium.recipe.dedup import Dedup

if TYPE_CHECKING:
    import pyarrow as pa

GROUP_CHARACTERS, GROUP_ROWS = 4_000_000, 1000
"""What is in memory at once, and a row group of Parquet."""
COLUMNS = (
    *("key", "url", "text", "source", "kind", "license", "origin", "language", "language_score"),
    *("quality", "meta", "where"),
)
"""The columns of the artifact."""
REJECTED = ("key", "url", "text", "source", "kind", "where", "step", "reason")


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
        self.dedup = config.dedup
        self.lines = self.dedup.lines if self.dedup and not last else None
        self.documents: list[Document] = []
        self.rejects: list[Document] = []
        self.size, self.rows = 0, 0
        self.rejected = schema(REJECTED)
        schemas = {
            "documents": schema(COLUMNS),
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
                [{name: row[name] for name in COLUMNS} for row in self.documents], schema(COLUMNS)
            )
            self.writers["documents"].write_table(table)
            self.writers["marks"].write_table(self._marks())
            if self.lines:
                hashes = [np.unique(marks.line_hashes(row["text"], self.lines)) for row in self.documents]
                found = np.concatenate(hashes)
                self.writers["lines"].write_table(
                    pa.table({"hash": pa.array(found[found != 0], pa.uint64())})
                )
        self.documents, self.rejects, self.size = [], [], 0

    def _marks(self) -> pa.Table:
        import pyarrow as pa

        rows = self.documents
        texts = [marks.text_hash(row["text"]) for row in rows]
        first = (self.number << 32) + self.rows
        self.rows += len(rows)
        columns: dict[str, Any] = {
            "id": np.arange(first, first + len(rows), dtype=np.int64),
            "characters": [len(row["text"]) for row in rows],
            "bytes": [counts.size(row["text"])[1] for row in rows],
            "quality": [row["quality"] for row in rows],
            "unit": [keys.split(row["key"]) for row in rows],
            "order": [seeds.derive(self.seed, "order", row["key"]) for row in rows],
            "key_hash": [marks.key_hash(row["key"]) for row in rows],
            "url_hash": [marks.url_hash(row["url"]) for row in rows],
            "text_high": [high for high, _ in texts],
            "text_low": [low for _, low in texts],
            "overlap": [row.get("overlap", 0) for row in rows],
        }
        fuzzy = self.dedup.fuzzy if self.dedup else None
        if fuzzy:
            hashes = (
                np.full((len(rows), fuzzy.bands * fuzzy.rows), marks.EMPTY)  # the lines are still to go
                if self.lines
                else marks.signatures([row["text"] for row in rows], fuzzy)
            )
            for band, column in enumerate(marks.bands(hashes, fuzzy).T):
                columns[f"band{band:02d}"] = column
            if fuzzy.similarity is not None:
                columns["signature"] = pa.FixedSizeListArray.from_arrays(hashes.ravel(), hashes.shape[1])
        plan = marks_schema(self.dedup)
        return pa.table([pa.array(columns[field.name], field.type) for field in plan], schema=plan)

    def close(self) -> None:
        self.flush()
        for writer in self.writers.values():
            writer.close()


def writable(text: str) -> str:
    """The text without halves of surrogate pairs, which no file can hold."""
    if text.isascii():
        return text
    return text.encode("utf-8", "replace").decode()


@dataclass(frozen=True)
class Read:
    """Reads parts: `task` is {"number": place among all parts, "part": the part}."""

    config: DataStage
    setting: Setting
    seed: int
    folder: Path
    """Where the parts' files go."""
    evaluated: Path | None
    """Evaluation items to look for: a file of `contamination.Evaluated`."""
    name: str = "read"

    def __call__(self, task: str) -> None:
        said = json.loads(task)
        part = Part(**{**said["part"], "files": tuple(said["part"]["files"])})
        target = self.folder / name_of(part)
        done = target.with_suffix(".json")
        if done.exists():
            return
        names = ["documents", "marks"]
        names += ["rejects"] if self.config.keep_rejects else []
        names += ["lines"] if self.config.dedup and self.config.dedup.lines else []
        write_json(done, written(target, names, lambda files: self._read(part, said["number"], files)))

    def _read(self, part: Part, number: int, files: dict[str, Path]) -> dict[str, Any]:
        setting = Setting(
            **{**vars(self.setting), "index": part.source, "seed": self.setting_seed(part.source)}
        )
        source = readers.open_documents(self.config.sources[part.source], setting)
        limits = [limit for limit in (source.max_dead, self.config.max_dead) if limit is not None]
        dead = DeadLetters(min(limits))
        evaluated = Evaluated.load(self.evaluated) if self.evaluated else None
        out = Out(self.config, self.seed, number, files, last=False)
        account = Account(self.config, self.setting.folder)
        for document in source.read(part, dead):
            if not account.accepts(document):
                out.reject(document)
                continue
            if evaluated is not None:
                document["overlap"] = evaluated.overlap(document)
            out.add(document)
        out.close()
        return {
            "rows": out.rows,
            "steps": account.rows,
            "pii": account.pii,
            "dead": dead.rows(),
            "met": evaluated.met if evaluated else {},
        }

    def setting_seed(self, index: int) -> int:
        return seeds.derive(self.setting.seed, "source", index)


def written(target: Path, names: list[str], work: Any) -> dict[str, Any]:
    """Calls `work` with a temporary file for each name; renames all of them when it is through."""
    import contextlib

    with contextlib.ExitStack() as stack:
        files = {name: stack.enter_context(atomic_path(path_of(target, name))) for name in names}
        result: dict[str, Any] = work(files)
    return result


def path_of(target: Path, name: str) -> Path:
    return target.with_suffix(".parquet" if name == "documents" else f".{name}.parquet")


class Account:
    """Leads documents through the steps and counts."""

    def __init__(self, config: DataStage, folder: Path) -> None:
        self.config = config
        self.steps = build_steps(config, folder)
        self.reading = counts.row("read")
        self.counted = [counts.row(step.name) for step in self.steps]
        self.pii: dict[str, int] = {}

    @property
    def rows(self) -> list[counts.Row]:
        return [self.reading, *self.counted]

    def accepts(self, document: Document) -> bool:
        """Whether the document is kept; if not, its `step` and `reason` say why."""
        text = document["text"] = writable(document["text"])
        size = counts.size(text)
        counts.entered(self.reading, size)
        if document["reason"] is not None:
            counts.dropped(self.reading, document["reason"], document["key"], text)
            return False
        counts.left(self.reading, size)
        for step, row in zip(self.steps, self.counted, strict=True):
            before = document["text"]
            counts.entered(row, size)
            reason = step(document)
            if reason is None and step.name == "quality":
                reason = keep(document["quality"], self.config.quality)
            if reason is None and not document["text"].strip():
                reason = f"{step.name}:empty"
            if reason is not None:
                document["step"], document["reason"], document["text"] = step.name, reason, before
                counts.dropped(row, reason, document["key"], before)
                return False
            if document["text"] is not before:
                size = counts.size(document["text"])
            counts.left(row, size)
        for kind, count in document.pop("pii", {}).items():
            self.pii[kind] = self.pii.get(kind, 0) + count
        return True


def tasks(parts: list[Part], first: int = 0) -> list[str]:
    """A line of JSON for each part; parts are numbered through from `first`."""
    return [json.dumps({"number": first + place, "part": asdict(part)}) for place, part in enumerate(parts)]


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file, a group in memory."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            yield from file.read_row_group(group).to_pylist()
