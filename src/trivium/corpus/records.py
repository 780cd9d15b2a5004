"""Records of a data artifact: what an item is, what identifies it, how files of them are read and written.

Documents are Parquet files in the folders `train` and `heldout`, conversations and preferences `train.jsonl` and
`heldout.jsonl`; `read` takes either. A record is a dict with the keys `key`, `source` (the kind of its source; in Parquet
`kind`, and `source` is its place in the recipe), `license`, `origin` and those of its format:
    documents      text, url, language, language_score, quality, meta, where
    conversations  messages [{role, content, and the other fields of `trivium.text.turns`}], meta, tools (JSON schemas)
    preferences    prompt [{role, content}], chosen, rejected, meta
    feedback       prompt [{role, content}], completion, label (1 desirable, 0 not), meta
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trivium.corpus import extras
from trivium.errors import DataError
from trivium.files import atomic_path
from trivium.keys import key_of as key_of
from trivium.keys import normalise as normalise

Record = dict[str, Any]
Messages = list[dict[str, Any]]


def text_of(record: Record) -> str:
    """All text of a record, of any format, in reading order."""
    if "text" in record:
        return str(record["text"])
    turns = record["messages"] if "messages" in record else record["prompt"]
    parts = [f"{turn['role']}: {turn['content']}" for turn in turns]
    return "\n".join([*parts, *(record[name] for name in REPLIES if name in record)])


REPLIES = ("chosen", "rejected", "completion")


def texts(record: Record) -> list[str]:
    """Each text of a record on its own, of any format, in reading order."""
    if "text" in record:
        return [record["text"]]
    turns = record["messages"] if "messages" in record else record["prompt"]
    return [*(turn["content"] for turn in turns), *(record[name] for name in REPLIES if name in record)]


def with_texts(record: Record, changed: Sequence[str]) -> Record:
    """The record with these in the places of its `texts`."""
    if "text" in record:
        return {**record, "text": changed[0]}
    name = "messages" if "messages" in record else "prompt"
    count = len(record[name])
    turns = [{**turn, "content": text} for turn, text in zip(record[name], changed[:count], strict=True)]
    replies = zip((reply for reply in REPLIES if reply in record), changed[count:], strict=True)
    return {**record, name: turns, **dict(replies)}


def kind_of(record: Mapping[str, Any]) -> str:
    """The kind of source that a record comes from."""
    return str(record.get("kind") or record["source"])


def meta_of(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """What else is known of a record: documents hold it as JSON, all others as it is."""
    meta = record.get("meta") or {}
    known: Mapping[str, Any] = json.loads(meta) if isinstance(meta, str) else meta
    return known


def prompt_of(record: Mapping[str, Any]) -> Messages:
    """What is asked: the record's turns up to the assistant turns at its end, which answer. Empty if nothing is asked."""
    turns: Messages = record["prompt"] if "prompt" in record else record["messages"]
    end = len(turns)
    while end and turns[end - 1]["role"] == "assistant":
        end -= 1
    return list(turns[:end])


def as_feedback(record: Record) -> list[Record]:
    """A preference pair as feedback: the chosen reply is desirable, the rejected one is not. Feedback stays as it is."""
    if "completion" in record:
        return [record]
    rest = {name: value for name, value in record.items() if name not in ("chosen", "rejected")}
    return [
        {**rest, "completion": record["chosen"], "label": 1},
        {**rest, "completion": record["rejected"], "label": 0},
    ]


SPLITS = ("train", "heldout")


def files(path: Path) -> list[Path]:
    """What holds a split: the Parquet files of the folder `path` in their order, or `path` as JSON lines.

    `path` is `artifact / "train"` or `artifact / "train.jsonl"`. DataError if there is neither.
    """
    folder, lines = path.with_suffix(""), path.with_suffix(".jsonl")
    if lines.is_file():
        return [lines]
    if folder.is_dir():
        return sorted(folder.glob("*.parquet"))
    raise DataError(
        f"{folder.name} is missing: neither {lines.name} nor a folder of Parquet files",
        where=str(path),
        fix="run the data stage that makes it",
    )


def read(path: Path, columns: tuple[str, ...] | None = None) -> Iterator[Record]:
    """The records of a split of a data artifact (`artifact / "train"`), a few at a time in memory.

    `columns` reads no others from Parquet. DataError if the split is missing or damaged.
    """
    for file in files(path):
        yield from read_file(file, columns)


def read_file(file: Path, columns: tuple[str, ...] | None = None) -> Iterator[Record]:
    """The records of one of `files`."""
    yield from _lines(file) if file.suffix == ".jsonl" else _rows(file, columns)


def _lines(path: Path) -> Iterator[Record]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise DataError(
                    f"a line that is no JSON: {error}",
                    where=f"{path}, line {number}",
                    fix="a data stage writes one JSON object per line; run it anew",
                ) from None


def _rows(path: Path, columns: tuple[str, ...] | None) -> Iterator[Record]:
    with extras.needed("data", "pyarrow"):
        import pyarrow as pa
        import pyarrow.parquet as pq
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(BATCH, columns=None if columns is None else list(columns)):
                yield from batch.to_pylist()
    except (OSError, KeyError, pa.ArrowException) as error:
        raise DataError(
            f"no Parquet file of records: {error}",
            where=str(path),
            fix="run the data stage that makes it anew",
        ) from None


BATCH = 256
"""Rows of a Parquet file in memory at once."""


def write(path: Path, records: Iterable[Record]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
