"""Tables: Parquet files, data sets of the `datasets` library, and the output of another stage."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trivium.corpus import extras
from trivium.corpus.dead_letters import DeadLetters
from trivium.corpus.readers import locate
from trivium.corpus.readers.base import Document, Part, Setting, Source
from trivium.corpus.readers.text import JsonLines, said
from trivium.corpus.records import Record, key_of
from trivium.errors import DataError

PARQUET = (".parquet", ".pq")
BATCH = 256
"""Rows held at a time."""
KEPT = ("url", "id", "title", "author", "date", "language", "license")
"""Columns that are kept beside the text, where they are there."""
ROWS = 20_000
"""Rows of a data set on disk in one part."""


class Rows(Source):
    """Shared: a document from a row of named columns."""

    def row(self, row: Record, name: str, place: int, dead: DeadLetters) -> Document | None:
        text = row.get(self.config.column)
        if not isinstance(text, str) or not text.strip():
            kind = "empty" if isinstance(text, str) else f"not a string but {type(text).__name__}"
            dead.add(name, place, f"bad row: `{self.config.column}` is {kind}")
            return None
        clean = {key: value for key, value in row.items() if not isinstance(value, bytes)}
        return JsonLines.row(self, clean, text, f"{name}@{place}")  # type: ignore[arg-type]


class ParquetFiles(Rows):
    def parts(self, characters: int | None = None) -> list[Part]:
        """Row groups, as many as make PART_BYTES. DataError if no file has the column."""
        parts: list[Part] = []
        missing: list[str] = []
        names = locate.find(self.config.path, self.setting.folder, PARQUET)
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

        schema, column = table.schema_arrow, self.config.column
        if column not in schema.names:
            return f"no column `{column}`; there are: {', '.join(schema.names) or 'none'}"
        kind = schema.field(column).type
        kind = kind.value_type if types.is_dictionary(kind) else kind
        if not (types.is_string(kind) or types.is_large_string(kind)):
            return f"column `{column}` holds {kind}, no strings"
        return None

    def read(self, part: Part, dead: DeadLetters) -> Iterator[Document]:
        place = 0
        try:
            with locate.open_binary(part.path, self.setting.folder) as file:
                wrong = self._wrong(_parquet(file))
                if wrong:
                    dead.add(part.path, part.start, f"wrong columns: {wrong}")
                    return
                table = _parquet(file, self.config.column)
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

    def _group(self, table: Any, group: int, name: str, place: int, dead: DeadLetters) -> Iterator[Document]:
        """One row group; where it is damaged, what is left of it is lost and the next one is read."""
        columns = [
            column
            for column in dict.fromkeys((self.config.column, *KEPT))
            if column in table.schema_arrow.names
        ]
        try:
            for batch in table.iter_batches(batch_size=BATCH, row_groups=[group], columns=columns):
                found = {column: batch.column(column) for column in columns}
                for nth in range(batch.num_rows):
                    row = {column: values[nth].as_py() for column, values in found.items()}
                    document = self.row(row, name, place, dead)
                    place += 1
                    if document is not None:
                        yield document
        except DataError:
            raise
        except Exception as error:
            dead.add(name, place, f"damaged row group: the rest of group {group} is lost ({said(error)})")


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

    def parts(self, characters: int | None = None) -> list[Part]:
        data = self._load()
        count, step = (len(data), ROWS) if hasattr(data, "select") else (data.num_shards, 1)
        name, index = self.config.name, self.setting.index
        starts = range(0, max(1, count), step)
        return [Part(index, name, start, min(count, start + step), nth) for nth, start in enumerate(starts)]

    def read(self, part: Part, dead: DeadLetters) -> Iterator[Document]:
        place = part.start
        try:
            data = self._load()
            if hasattr(data, "select"):
                rows = data.select(range(part.start, part.stop if part.stop is not None else len(data)))
                name = part.path
            else:
                rows = data.shard(num_shards=data.num_shards, index=part.start)
                name, place = f"{part.path}#shard{part.start}", 0
            for row in rows:
                document = self.row(row, name, place, dead)
                place += 1
                if document is not None:
                    yield document
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
        if names is not None and config.column not in names:
            raise DataError(
                f"no column `{config.column}` in {config.name}; there are: {', '.join(names) or 'none'}",
                where=f"sources: huggingface, {config.name}",
                fix="name the column that holds the text: `column: ...`",
            )
        return data

    def _files(self, folder: Path) -> Any:
        """A folder (or one file) of Parquet or JSON files, streamed."""
        import datasets

        for kind, endings in (("parquet", PARQUET), ("json", (".jsonl", ".ndjson", ".json"))):
            inside = folder.rglob("*") if folder.is_dir() else [folder]
            found = sorted(str(file) for file in inside if file.name.endswith(endings) and file.is_file())
            if found:
                return datasets.load_dataset(kind, data_files=found, split="train", streaming=True)
        raise FileNotFoundError("no .parquet, .jsonl or .json file there")


class SyntheticDocuments(Source):
    """Documents of another stage's artifact, with the key, licence and origin they have there."""

    def __init__(self, config: Any, setting: Setting) -> None:
        super().__init__(config, setting)
        folder = setting.inputs.get(config.stage)
        found = licences_of(folder) if folder is not None else []
        self.license = config.license or ", ".join(found) or self.license
        self.origin = config.origin or f"stage {config.stage}"

    def parts(self, characters: int | None = None) -> list[Part]:
        return [Part(self.setting.index, f"stage {self.config.stage}")]

    def read(self, part: Part, dead: DeadLetters) -> Iterator[Document]:
        for place, record in enumerate(artifact(self.setting.inputs[self.config.stage])):
            if "text" not in record:
                dead.add(part.path, place, "bad row: no `text`")
                continue
            text = str(record["text"])
            meta = record.get("meta") or {}
            yield self.document(
                str(record.get("key") or key_of(text)),
                text,
                f"{part.path}@{place}",
                url=record.get("url"),
                license=record.get("license"),
                origin=record.get("origin"),
                meta=json.loads(meta) if isinstance(meta, str) else meta,
            )


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
    from trivium.corpus import records

    for split in ("train", "heldout"):
        files = sorted((folder / split).rglob("*.parquet"))
        for file in files:
            for batch in _parquet(file).iter_batches(batch_size=BATCH):
                yield from batch.to_pylist()
        if not files and (split == "train" or (folder / f"{split}.jsonl").is_file()):
            yield from records.read(folder / f"{split}.jsonl")
