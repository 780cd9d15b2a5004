"""Records of a data artifact: what an item is, what identifies it, how files of them are read and written.

A record is a dict with the keys `key`, `source`, `license`, `origin` and those of its format:
    documents      text
    conversations  messages [{role, content}], meta
    preferences    prompt [{role, content}], chosen, rejected, meta
    feedback       prompt [{role, content}], completion, label (1 desirable, 0 not), meta
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trivium.errors import DataError
from trivium.files import atomic_path

Record = dict[str, Any]
Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Item:
    """A record on its way into a data artifact."""

    record: Record
    same: str = ""
    """Two items with equal `same` are duplicates; empty means: compare the record's own text."""
    sayings: tuple[str, ...] = ()
    """Texts whose word n-grams must not be shared between held-out and training; empty for made-up tasks."""


def normalise(text: str) -> str:
    """White space collapsed, ends stripped: the form in which texts are compared."""
    return " ".join(text.split())


def key_of(text: str) -> str:
    """The identity of an item: a hash of its normalised text, so that equal texts fall in the same split."""
    return hashlib.sha256(normalise(text).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def text_of(record: Record) -> str:
    """All text of a record, of any format, in reading order."""
    if "text" in record:
        return str(record["text"])
    turns = record["messages"] if "messages" in record else record["prompt"]
    parts = [f"{turn['role']}: {turn['content']}" for turn in turns]
    return "\n".join(
        [*parts, *(record[name] for name in ("chosen", "rejected", "completion") if name in record)]
    )


def document(key: str, text: str) -> Record:
    return {"key": key, "text": text}


def conversation(key: str, question: str, reply: str, meta: Record) -> Record:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    return {"key": key, "messages": turns, "meta": meta}


def preference(key: str, question: str, chosen: str, rejected: str, meta: Record) -> Record:
    prompt = [{"role": "user", "content": question}]
    return {"key": key, "prompt": prompt, "chosen": chosen, "rejected": rejected, "meta": meta}


def as_feedback(record: Record) -> list[Record]:
    """A preference pair as feedback: the chosen reply is desirable, the rejected one is not. Feedback stays as it is."""
    if "completion" in record:
        return [record]
    rest = {name: value for name, value in record.items() if name not in ("chosen", "rejected")}
    return [
        {**rest, "completion": record["chosen"], "label": 1},
        {**rest, "completion": record["rejected"], "label": 0},
    ]


def read(path: Path) -> Iterator[Record]:
    """The records of a data artifact's file, one line at a time. DataError if it is missing or no JSON."""
    try:
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
    except FileNotFoundError:
        raise DataError(
            f"{path.name} is missing", where=str(path), fix="run the data stage that makes it"
        ) from None


def write(path: Path, records: Iterable[Record]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
