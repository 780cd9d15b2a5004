"""Tables: Parquet files, data sets of the `datasets` library, and the output of another stage."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trivium.corpus import extras, records
from trivium.corpus.dead_letters import DeadLetters
from trivium.corpus.readers import locate
from trivium.corpus.readers.base import Document, Part, Setting, Source
from trivium.corpus.readers.endings import JSONL, PARQUET, fits
from trivium.corpus.readers.text import JsonLines, Rows, said
from trivium.corpus.records import Record, key_of, text_of
from trivium.corpus.rows import BadRow
from trivium.errors import DataError
from trivium.recipe import sources

BATCH = 256
"""Rows held at a time."""
KEPT = ("url", "id", "title", "author", "date", "language", "license", "meta")
"""Columns that are kept beside the text, where they are there."""
ROWS = 20_000
"""Rows of a data set on disk in one part."""


class ParquetFiles(Rows):
    endings = PARQUET

    def __init__(self, config: Any, setting: Setting) -> None:
        super().__init__(config, setting)
        self.column = vars(config).get("column", "text")

    def parts(self, characters: int | None = None) -> list[Part]:
        """Row groups, as many as make PART_BYTES. DataError if no file has the column."""
        parts: list[Part] = []
        missing: list[str] = []
        names = locate.of(self)
        for name in names:
            try:
                with locate.open_binary(name, self.setting.folder) as file:
                    table = _parquet(file)
                    wrong = self._wrong(table)
                    sizes = [
                        table.metadata.row_group(i).total_byte_size
                        for i in range(table.metadata.num_row_groups)
                    ]
            except Exception:
                parts.append(Part(self.setting.index, name, index=len(parts)))  # said when it is read
                continue
            missing += [wrong] if wrong else []
            for start, stop in _groups(sizes):
                parts.append(Part(self.setting.index, name, start, stop, len(parts)))
        if len(missing) == len(names):
            raise DataError(
                missing[0], where=names[0], fix="name the column that holds the text: `column: ...`"
            )
        return parts

    def _wrong(self, table: Any) -> str | None:
        import pyarrow.types as types

        if self.setting.format != "documents":
            return None
        schema, column = table.schema_arrow, self.column
        if column not in schema.names:
            return f"no column `{column}`; there are: {', '.join(schema.names) or 'none'}"
        kind = schema.field(column).type
        kind = kind.value_type if types.is_dictionary(kind) else kind
        if not (types.is_string(kind) or types.is_large_string(kind)):
            return f"column `{column}` holds {kind}, no strings"
        return None

    def rows(self, part: Part, dead: DeadLetters) -> Iterator[tuple[int, int, Record | BadRow]]:
        place = 0
        try:
            with locate.open_binary(part.path, self.setting.folder) as file:
                wrong = self._wrong(_parquet(file))
                if wrong:
                    dead.add(part.path, part.start, f"wrong columns: {wrong}")
                    return
                table = _parquet(file, self.column if self.setting.format == "documents" else None)
                groups = table.metadata.num_row_groups
                stop = groups if part.stop is None else part.stop
                if groups == 0 or table.metadata.num_rows == 0:
                    dead.add(part.path, 0, "empty file")
                place = sum(table.metadata.row_group(i).num_rows for i in range(part.start))
                for group in range(part.start, stop):
                    yield from self._group(table, group, part.path, place, dead)
                    place += table.metadata.row_group(group).num_rows
        except DataError:
            raise
        except Exception as error:  # pyarrow raises its own and the system's
            dead.add(part.path, place, f"unreadable file: {said(error)}")

    def _group(
        self, table: Any, group: int, name: str, place: int, dead: DeadLetters
    ) -> Iterator[tuple[int, int, Record | BadRow]]:
        """One row group; where it is damaged, what is left of it is lost and the next one is read."""
        columns = table.schema_arrow.names
        if self.setting.format == "documents":
            columns = [name for name in dict.fromkeys((self.column, *KEPT)) if name in columns]
        try:
            for batch in table.iter_batches(batch_size=BATCH, row_groups=[group], columns=columns):
                values = {column: batch.column(column) for column in columns}
                for nth in range(batch.num_rows):
                    yield place, place + 1, _row(values, nth)
                    place += 1
        except DataError:
            raise
        except Exception as error:
            dead.add(name, place, f"damaged row group: the rest of group {group} is lost ({said(error)})")


def _row(values: dict[str, Any], nth: int) -> Record | BadRow:
    """One row of a batch. A value that Python cannot hold (a date in the year 30000, bytes that are no UTF-8) costs its row."""
    row, column = {}, ""
    try:
        for column, cells in values.items():
            row[column] = cells[nth].as_py()
    except Exception as error:  # as many kinds as there are types
        return BadRow(f"`{column}` cannot be read: {said(error)}"[:200])
    return {column: value for column, value in row.items() if not isinstance(value, bytes)}


def _parquet(file: Any, column: str | None = None) -> Any:
    """The file, opened. `column` is read as a dictionary: a text that stands in a thousand rows is held once."""
    with extras.needed("data", "pyarrow"):
        import pyarrow.parquet as parquet
    return parquet.ParquetFile(file, read_dictionary=[column] if column else None)


def _groups(sizes: list[int]) -> Iterator[tuple[int, int]]:
    """Ranges of row groups of about PART_BYTES."""
    start, total = 0, 0
    for group, size in enumerate(sizes):
        if group > start and total + size > locate.PART_BYTES:
            yield start, group
            start, total = group, 0
        total += size
    if start < len(sizes) or not sizes:
        yield start, len(sizes)


class HuggingFaceRows(Rows):
    """`datasets`: a folder of `save_to_disk`, files of Parquet or JSON, or a name on the hub."""

    config: sources.HuggingFace

    def __init__(self, config: sources.HuggingFace, setting: Setting) -> None:
        super().__init__(config, setting)
        self.column = config.column

    @classmethod
    def identity(cls, config: sources.HuggingFace, folder: Path) -> dict[str, Any]:
        if (folder / config.name).exists():
            return {"files": locate.identity(config.name, folder)}
        if config.revision is None:
            raise DataError(
                f"{config.name} is no local folder, and for a data set on the hub its `revision` is missing",
                where="sources: huggingface",
                fix="write `revision: ...`, the commit's 40 hexadecimal digits (see the data set's Files and versions), so "
                "that the same recipe always reads the same data; or correct `name`",
            )
        return {"revision": config.revision}

    def parts(self, characters: int | None = None) -> list[Part]:
        data = self._load()
        count, step = (len(data), ROWS) if hasattr(data, "select") else (data.num_shards, 1)
        name, index = self.config.name, self.setting.index
        starts = range(0, max(1, count), step)
        return [
            Part(index, f"{name}#shard{start}" if step == 1 else name, start, min(count, start + step), nth)
            for nth, start in enumerate(starts)
        ]

    def rows(self, part: Part, dead: DeadLetters) -> Iterator[tuple[int, int, Record | BadRow]]:
        place = part.start
        try:
            data = self._load()
            if hasattr(data, "select"):
                found = data.select(range(part.start, part.stop if part.stop is not None else len(data)))
            else:
                found, place = data.shard(num_shards=data.num_shards, index=part.start), 0
            for row in found:
                yield (
                    place,
                    place + 1,
                    {name: value for name, value in row.items() if not isinstance(value, bytes)},
                )
                place += 1
        except DataError:
            raise
        except Exception as error:  # the library passes on whatever its readers raise
            dead.add(part.path, place, f"damaged data set: the rest of this part is lost ({said(error)})")

    def _load(self) -> Any:
        with extras.needed("data", "datasets"):
            import datasets
        config, folder = self.config, self.setting.folder / self.config.name
        datasets.disable_progress_bars()
        try:
            if not folder.exists():
                data = datasets.load_dataset(
                    config.name, config.config, split=config.split, revision=config.revision, streaming=True
                )
            elif (folder / "dataset_dict.json").is_file():
                data = datasets.load_from_disk(str(folder))[config.split]
            elif (folder / "dataset_info.json").is_file():
                data = datasets.load_from_disk(str(folder))
            else:
                data = self._files(folder)
        except Exception as error:
            raise DataError(
                f"the data set {config.name} cannot be opened: {type(error).__name__}: {error}"[:500],
                where=f"sources: huggingface, {config.name}",
                fix="check the name, `config`, `split` and `revision`; a local folder is one of save_to_disk or of "
                ".parquet, .jsonl or .json files",
            ) from None
        names = list(data.features or {}) if data.features is not None else None
        if self.setting.format == "documents" and names is not None and config.column not in names:
            raise DataError(
                f"no column `{config.column}` in {config.name}; there are: {', '.join(names) or 'none'}",
                where=f"sources: huggingface, {config.name}",
                fix="name the column that holds the text: `column: ...`",
            )
        return data

    def _files(self, folder: Path) -> Any:
        """A folder (or one file) of Parquet or JSON files, streamed."""
        import datasets

        for kind, endings in (("parquet", PARQUET), ("json", JSONL)):
            inside = folder.rglob("*") if folder.is_dir() else [folder]
            self.passed.clear()
            names = [str(file) for file in inside if file.is_file()]
            found = sorted(locate.fitting(names, endings, self.passed))
            if found:
                return datasets.load_dataset(kind, data_files=found, split="train", streaming=True)
        raise FileNotFoundError("no .parquet, .jsonl or .json file there")


class Table(Rows):
    """Files of rows, each read as what its name says it is, or a folder of `save_to_disk`."""

    config: sources.Table

    endings = (*JSONL, *PARQUET)

    def __init__(self, config: sources.Table, setting: Setting) -> None:
        super().__init__(config, setting)
        self.max_dead = config.max_bad_lines
        self.lines, self.parquet = JsonLines(config, setting), ParquetFiles(config, setting)

    @classmethod
    def identity(cls, config: sources.Table, folder: Path) -> dict[str, Any]:
        if not (folder / config.path / STATE).is_file():
            return {}
        return {"path": config.path, "files": locate.identity(config.path, folder, (".arrow",))}

    def parts(self, characters: int | None = None) -> list[Part]:
        folder, index = self.setting.folder / self.config.path, self.setting.index
        if (folder / "dataset_dict.json").is_file():
            splits = json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
            raise DataError(
                f"{self.config.path} holds several splits: {', '.join(splits)}",
                where=str(folder),
                fix=f"name one of them: `path: {self.config.path}/{splits[0]}`",
            )
        if (folder / STATE).is_file():
            return [
                Part(index, f"{self.config.path}/{name}", index=nth)
                for nth, name in enumerate(_saved(folder))
            ]
        names = locate.of(self)
        return [Part(index, name, index=nth) for nth, name in enumerate(names)]

    def rows(self, part: Part, dead: DeadLetters) -> Iterator[tuple[int, int, Record | BadRow]]:
        if fits(part.path, PARQUET):
            return self.parquet.rows(part, dead)
        return (
            _arrow(part, self.setting, dead) if part.path.endswith(".arrow") else self.lines.rows(part, dead)
        )

    def named(self, part: Part, number: int) -> str:
        return f"{part.path}:{number}"


STATE = "state.json"
"""What `save_to_disk` leaves in a folder: the names of its Arrow files."""


def _saved(folder: Path) -> list[str]:
    try:
        named = json.loads((folder / STATE).read_text(encoding="utf-8"))["_data_files"]
        return [Path(file["filename"]).name for file in named]
    except (ValueError, KeyError, TypeError):
        raise DataError(
            f"no {STATE} of the datasets library", where=str(folder), fix="save it again with `save_to_disk`"
        ) from None


def _arrow(part: Part, setting: Setting, dead: DeadLetters) -> Iterator[tuple[int, int, Record | BadRow]]:
    with extras.needed("data", "pyarrow"):
        import pyarrow.ipc
    place = 0
    try:
        with locate.open_binary(part.path, setting.folder) as file, pyarrow.ipc.open_stream(file) as reader:
            for batch in reader:
                values = {name: batch.column(name) for name in batch.schema.names}
                for nth in range(batch.num_rows):
                    yield place, place + 1, _row(values, nth)
                    place += 1
    except (OSError, pyarrow.ArrowException) as error:
        dead.add(part.path, place, f"unreadable file: {said(error)}")


FIELDS = {"documents": "text", "conversations": "messages", "preferences": "chosen", "feedback": "completion"}
"""The field by which a record's format is known."""


class Synthetic(Source):
    """What another stage of the recipe made, with the key, licence and origin that it has there."""

    config: sources.Synthetic

    def __init__(self, config: sources.Synthetic, setting: Setting) -> None:
        super().__init__(config, setting)
        folder = setting.inputs.get(config.stage)
        found = licences_of(folder) if folder is not None else []
        self.license = config.license or ", ".join(found) or self.license
        self.origin = config.origin or f"stage {config.stage}"

    def parts(self, characters: int | None = None) -> list[Part]:
        return [Part(self.setting.index, f"stage {self.config.stage}")]

    def read(self, part: Part, dead: DeadLetters) -> Iterator[Document]:
        wanted = FIELDS[self.setting.format]
        for place, record in enumerate(artifact(self.setting.inputs[self.config.stage])):
            if wanted not in record:
                dead.add(part.path, place, f"bad row: no `{wanted}`, so it is none of {self.setting.format}")
                continue
            meta = record.get("meta") or {}
            given = {name: record.get(name) for name in ("license", "origin")}
            own = {name: value for name, value in record.items() if name not in PROVENANCE}
            own["meta"] = json.loads(meta) if isinstance(meta, str) else meta
            own.setdefault("key", key_of(text_of(own)))
            row = self.item(own, f"{part.path}@{place}", **given)
            yield {**row, "url": record.get("url")}


PROVENANCE = frozenset(
    ("source", "kind", "license", "origin", "where", "url", "language", "language_score", "quality")
)
"""What a record holds beside the fields of its format."""


def licences_of(folder: Path) -> list[str]:
    """The licences in the account of a stage's artifact; empty if it has none."""
    try:
        account = json.loads((folder / "account.json").read_text(encoding="utf-8"))
        return sorted({str(source["license"]) for source in account["sources"]})
    except (OSError, ValueError, KeyError, TypeError):
        return []


def artifact(folder: Path) -> Iterator[Record]:
    """All records of a stage's artifact, training and held-out: JSON lines, or Parquet for documents.

    Both, because the split is a hash of the key: it comes out the same again. DataError if there is neither.
    """
    for split in records.SPLITS:
        if split == "train" or (folder / split).is_dir() or (folder / f"{split}.jsonl").is_file():
            yield from records.read(folder / split)
