"""Rows of a data stage as token ids: what calibrates a smaller model, and what it is measured on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from trivium.corpus import records
from trivium.errors import DataError
from trivium.text.chat import ChatTokenizer, Encoded


class TokenRow(NamedTuple):
    """A row of ids, and the places (1 to T - 1) of those whose prediction counts."""

    ids: list[int]
    scored: list[int]


def token_rows(split: Path, chat: ChatTokenizer, *, context: int, count: int) -> list[TokenRow]:
    """`count` records of a split (`artifact / "heldout"`) at most, from all its sources in turn, cut at `context`.

    Of documents every token counts, of conversations and replies what the assistant says. DataError if nothing is left.
    """
    rows = []
    for record in first_records(split, count):
        ids, mask = _encoded(record, chat)
        scored = [place for place, weight in enumerate(mask[:context]) if weight > 0 and place > 0]
        if scored:
            rows.append(TokenRow(ids[:context], scored))
    if not rows:
        raise DataError(
            f"none of {count} records has a token to predict within the context of {context}",
            where=str(split),
            fix="name a data stage whose records fit the model's context",
        )
    return rows


def first_records(split: Path, count: int) -> Iterator[dict[str, Any]]:
    """`count` records of a split at most, of its files one of each after the other: their own order is one of hashes."""
    return islice(_in_turn(records.files(split)), count)


def _in_turn(files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    readers = [iter(records.read_file(file)) for file in files]
    while readers:
        for reader in list(readers):
            record = next(reader, None)
            if record is None:
                readers.remove(reader)
            else:
                yield record


def _encoded(record: dict[str, Any], chat: ChatTokenizer) -> Encoded:
    if "text" in record:
        ids = chat.document(str(record["text"]))
        return Encoded(ids, [1.0] * len(ids))
    if "messages" in record:
        return chat.encode(record["messages"], tools=record.get("tools"))
    reply = record["chosen"] if "chosen" in record else record["completion"]
    return chat.response(record["prompt"], str(reply), record.get("tools"))
