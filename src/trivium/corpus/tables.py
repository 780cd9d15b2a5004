"""Rows of named columns: JSON lines, Parquet, and folders that the `datasets` library saved."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from trivium.corpus import files
from trivium.corpus.records import Record
from trivium.errors import DataError, TriviumError

PARQUET = (".parquet", ".pq")
ENDINGS = (*files.JSONL, *PARQUET)
STATE = "state.json"
"""What `save_to_disk` leaves in a folder: the names of its Arrow files."""

Row = tuple[str, Callable[[], Record]]
"""Where a row is (file:row, from 1), and what reads it; reading raises BadLine."""


def rows(path: str, folder: Path) -> Iterator[Row]:
    """The rows of a file, a folder of files, a glob, or a folder of `save_to_disk`. DataError for what cannot be read."""
    whole = folder / path
    if (whole / "dataset_dict.json").is_file():
        splits = json.loads((whole / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        raise DataError(
            f"{path} holds several splits: {', '.join(splits)}",
            where=str(whole),
            fix=f"name one of them: `path: {path}/{splits[0]}`",
        )
    if (whole / STATE).is_file():
        for file in _saved(whole):
            yield from _values(file, _arrow(file))
        return
    for file in files.find(path, folder, ENDINGS):
        if file.suffix in PARQUET:
            yield from _values(file, _parquet(file))
        else:
            yield from files.lines(file)


def sources(path: str, folder: Path) -> dict[str, str]:
    """File -> SHA-256, of all that `rows` reads."""
    if (folder / path / STATE).is_file():
        return files.checksums(path, folder, (".arrow",))
    return files.checksums(path, folder, ENDINGS)


def _values(file: Path, values: Iterator[Record]) -> Iterator[Row]:
    for number, value in enumerate(values, start=1):
        # columns that other rows have are null here
        yield f"{file}:{number}", lambda row=value: {k: v for k, v in row.items() if v is not None}  # type: ignore[misc]


def _saved(folder: Path) -> list[Path]:
    try:
        named = json.loads((folder / STATE).read_text(encoding="utf-8"))["_data_files"]
        return [folder / Path(one["filename"]).name for one in named]
    except (ValueError, KeyError, TypeError):
        raise DataError(
            f"no {STATE} of the datasets library", where=str(folder), fix="save it again with `save_to_disk`"
        ) from None


def _pyarrow() -> Any:
    try:
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError:
        raise TriviumError(
            "Parquet and datasets need pyarrow, which is not installed", fix='pip install "trivium[data]"'
        ) from None
    return pyarrow


def _parquet(file: Path) -> Iterator[Record]:
    pyarrow = _pyarrow()
    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            for batch in table.iter_batches(256):
                yield from batch.to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise _unreadable(file, error) from None


def _arrow(file: Path) -> Iterator[Record]:
    pyarrow = _pyarrow()
    try:
        with file.open("rb") as handle, pyarrow.ipc.open_stream(handle) as reader:
            for batch in reader:
                yield from batch.to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise _unreadable(file, error) from None


def _unreadable(file: Path, error: Exception) -> DataError:
    said = " ".join(str(error).split())[:200]
    return DataError(
        f"the file cannot be read: {said}", where=str(file), fix="write it anew, or leave it out"
    )
