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
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from trivium.corpus import extras
from trivium.errors import DataError
from trivium.files import atomic_path
from trivium.keys import key_of as key_of
from trivium.keys import normalise as normalise

Record = dict[str, Any]
Messages = list[dict[str, Any]]


REPLIES = ("chosen", "rejected", "completion")


class Piece(NamedTuple):
    """One of a record's texts."""

    part: str
    """Where it stands: `text`, `messages[1] (assistant)`, `messages[1].reasoning_content`, `chosen`."""
    text: str
    code: bool = False
    """An argument of a tool's call, which machines read."""


def text_of(record: Record) -> str:
    """All that a record says, of any format, in reading order."""
    if "text" in record:
        return str(record["text"])
    parts = [f"{turn['role']}: {said(turn)}" for turn in record[_turns(record)]]
    return "\n".join([*parts, *(record[name] for name in REPLIES if name in record)])


def said(turn: Mapping[str, Any]) -> str:
    """All that a turn says: its reasoning, its content, and its calls as JSON."""
    calls = turn.get("tool_calls")
    parts = (turn.get("reasoning_content"), turn["content"], calls and json.dumps(calls, ensure_ascii=False))
    return "\n".join(part for part in parts if part)


def pieces(record: Record) -> list[Piece]:
    """Each text of a record on its own, of any format, in reading order."""
    if "text" in record:
        return [Piece("text", record["text"])]
    name, found = _turns(record), list[Piece]()
    for place, turn in enumerate(record[name]):
        where = f"{name}[{place}]"
        if turn.get("reasoning_content"):
            found.append(Piece(f"{where}.reasoning_content", turn["reasoning_content"]))
        found.append(Piece(f"{where} ({turn['role']})", turn["content"]))
        arguments = [text for call in turn.get("tool_calls") or () for text in _strings(_arguments(call))]
        found += [Piece(f"{where}.tool_calls", text, code=True) for text in arguments]
    return [*found, *(Piece(reply, record[reply]) for reply in REPLIES if reply in record)]


def with_texts(record: Record, changed: Iterable[str]) -> Record:
    """The record with these in the places of its `pieces`."""
    texts = iter(changed)
    if "text" in record:
        return {**record, "text": next(texts)}
    name, turns = _turns(record), []
    for turn in record[name]:
        if turn.get("reasoning_content"):
            turn = {**turn, "reasoning_content": next(texts)}
        turn = {**turn, "content": next(texts)}
        if turn.get("tool_calls"):
            turn["tool_calls"] = [_with_arguments(call, texts) for call in turn["tool_calls"]]
        turns.append(turn)
    return {**record, name: turns, **{reply: next(texts) for reply in REPLIES if reply in record}}


def _turns(record: Record) -> str:
    return "messages" if "messages" in record else "prompt"


def _arguments(call: Mapping[str, Any]) -> Any:
    """The arguments of a call, also where they are JSON in a string, as APIs give them."""
    inner = call.get("function", call)
    given = inner.get("arguments") if isinstance(inner, Mapping) else None
    try:
        return json.loads(given) if isinstance(given, str) else given
    except ValueError:
        return given


def _with_arguments(call: Record, texts: Iterator[str]) -> Record:
    before = _arguments(call)
    after = _replaced(before, texts)
    if after == before:
        return call
    inner = call.get("function", call)
    if isinstance(inner["arguments"], str) and not isinstance(before, str):
        after = json.dumps(after, ensure_ascii=False)
    inner = {**inner, "arguments": after}
    return {**call, "function": inner} if "function" in call else inner


def _strings(value: Any) -> Iterator[str]:
    """The strings in plain values, keys apart."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _strings(inner)


def _replaced(value: Any, texts: Iterator[str]) -> Any:
    """`value` with these in the places of its `_strings`."""
    if isinstance(value, str):
        return next(texts)
    if isinstance(value, Mapping):
        return {key: _replaced(inner, texts) for key, inner in value.items()}
    return [_replaced(inner, texts) for inner in value] if isinstance(value, list) else value


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
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise DataError(
                    f"a line that is no JSON: {error}",
                    where=f"{path}, line {number}",
                    fix="one JSON object per line; if a data stage wrote it, run that anew",
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
            fix="mend or replace it; if a data stage wrote it, run that anew",
        ) from None


BATCH = 256
"""Rows of a Parquet file in memory at once."""


def write(path: Path, records: Iterable[Record]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
