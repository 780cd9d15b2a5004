"""The texts that an index is over, one a document: what is known of each, and what its words are.

Documents are the Parquet files of their artifact. Of conversations, preferences and feedback every text of a record (a turn, a
reply) is a document of its own, so that no match goes from one turn into the next; they are written out once beside the index.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from trivium import files
from trivium.corpus import extras, records
from trivium.corpus.shards import source_of, verify
from trivium.errors import ArtifactError
from trivium.files import atomic_path

KNOWN = ("key", "url", "text", "source", "kind", "license", "origin", "where")
"""What is kept of a record beside each of its texts."""
GROUP = 512
"""Rows of a row group."""
RECORD = "texts.json"
"""Size and SHA-256 of what is written out; written last."""
HELD = 16
"""Row groups in memory."""


def texts(split: Path, folder: Path) -> Path:
    """The folder of Parquet files with a row for each text of a split (`artifact / "train"`); made in `folder` where the split is
    JSON lines. DataError for a split that is missing or damaged."""
    found = records.files(split)
    if not found or found[0].suffix != ".jsonl":
        return split.with_suffix("")
    with files.making(folder, RECORD) as new:
        if new:
            _write(target := folder / "00-rows-00000.parquet", _rows(split))
            said = {"size": target.stat().st_size, "sha256": files.sha256(target)}
            files.write_json(folder / RECORD, {target.name: said})
    check(folder)
    return folder


def check(folder: Path) -> None:
    """Compares the texts that were written out with their SHA-256, once in a process. ArtifactError where they are damaged."""
    try:
        said = files.read_json(folder / RECORD)
    except (OSError, ValueError) as error:
        raise _gone(folder / RECORD, error) from None
    for name, file in said.items():
        verify(folder / name, file, "file of texts", "delete the folder: it is made again from the rows")


def _rows(split: Path) -> Iterator[dict[str, Any]]:
    for number, record in enumerate(records.read(split), start=1):
        meta = records.meta_of(record)
        for part, text, _ in records.pieces(record):
            yield {
                "key": str(record.get("key", "")),
                "url": str(record.get("url") or meta.get("url") or ""),
                "text": text,
                "source": 0,
                "kind": records.kind_of(record) if "source" in record else "",
                "license": record.get("license"),
                "origin": record.get("origin"),
                "where": str(record.get("where") or ""),
                "row": number,
                "part": part,
            }


def _write(target: Path, rows: Iterator[dict[str, Any]]) -> None:
    with extras.needed("data", "pyarrow"):
        import pyarrow as pa
        import pyarrow.parquet as pq
    kinds = {"source": pa.int32(), "row": pa.int64()}
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in (*KNOWN, "row", "part")])
    with atomic_path(target) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as file:
        held: list[dict[str, Any]] = []
        for row in rows:
            held.append(row)
            if len(held) == GROUP:
                file.write_table(pa.Table.from_pylist(held, schema))
                held = []
        file.write_table(pa.Table.from_pylist(held, schema))


class Texts:
    """Texts by source and number, as `trivium.corpus.shards` numbers them."""

    def __init__(self, folder: Path) -> None:
        with extras.needed("data", "pyarrow"):
            import pyarrow.parquet as pq
        self.folder = folder
        self._rows: dict[Path, int] = {}
        self._groups: dict[int, list[tuple[int, Path, int]]] = {}
        """Source -> (number of the first row, file, row group)."""
        for source, paths in groupby(sorted(records.files(folder)), key=source_of):
            row = 0
            for path in paths:
                try:
                    metadata = pq.read_metadata(path)
                except Exception as error:  # pyarrow has errors of its own
                    raise _gone(path, error) from None
                self._rows[path] = metadata.num_rows
                for group in range(metadata.num_row_groups):
                    self._groups.setdefault(source, []).append((row, path, group))
                    row += metadata.row_group(group).num_rows
        self._read = lru_cache(HELD)(_group)
        self._under: dict[frozenset[str], dict[int, np.ndarray]] = {}

    def rows(self) -> dict[Path, int]:
        """How many texts each file has."""
        return self._rows

    def under(self, licences: Collection[str]) -> dict[int, np.ndarray]:
        """(texts,) bool by source: which are under one of these licences, in any case of letters; `unknown` are those without."""
        wanted = frozenset(licence.casefold() for licence in licences)
        if wanted in self._under:
            return self._under[wanted]
        found: dict[int, list[bool]] = {}
        for path in self._rows:
            rows = records.read_file(path, ("license",))
            found.setdefault(source_of(path), []).extend(
                str(row.get("license") or "unknown").casefold() in wanted for row in rows
            )
        self._under[wanted] = {source: np.array(rows, bool) for source, rows in found.items()}
        return self._under[wanted]

    def record(self, source: int, number: int) -> dict[str, Any]:
        """All that is known of a text. ArtifactError where the file no longer has it."""
        first, path, group = next(
            (entry for entry in reversed(self._groups.get(source, [])) if entry[0] <= number),
            (0, self.folder, -1),
        )
        if group >= 0 and number - first < len(table := self._read(path, group)):
            found: dict[str, Any] = table.slice(number - first, 1).to_pylist()[0]
            return found
        raise _gone(path, f"source {source} has no text {number}")


def _group(path: Path, group: int) -> Any:
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            return file.read_row_group(group)
    except Exception as error:  # pyarrow has errors of its own
        raise _gone(path, error) from None


def _gone(path: Path, why: object) -> ArtifactError:
    return ArtifactError(
        f"a file of texts is missing or damaged: {why}",
        where=str(path),
        fix="run the data stage that makes it anew, and delete the index beside it",
    )


def about(row: dict[str, Any]) -> dict[str, Any]:
    """What a report says of a text: where it comes from, and nothing of what it says."""
    known = {
        name: row.get(name) for name in ("key", "url", "kind", "license", "origin", "where", "row", "part")
    }
    if (meta := row.get("meta")) and not known["url"]:
        try:
            said = json.loads(meta) if isinstance(meta, str) else meta
            known["url"] = said.get("url") if isinstance(said, dict) else None
        except ValueError:
            pass
    return {name: value for name, value in known.items() if value not in (None, "")}
