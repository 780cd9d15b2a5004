"""Held-out items of other data stages, and whether a training item has been seen among them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from trivium.corpus import records
from trivium.corpus.records import Record

MADE_UP = frozenset({"reasoning", "refusals"})
"""Sources whose texts follow fixed forms: sharing words says nothing, so only keys are compared."""

_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


@dataclass(frozen=True)
class Forbidden:
    """Keys and word n-grams of held-out items."""

    keys: frozenset[str]
    grams: frozenset[tuple[str, ...]]
    n: int

    @classmethod
    def read(cls, against: dict[str, Path], n: int) -> Forbidden:
        """From `heldout.jsonl` of each folder in `against`. DataError if one is missing or unreadable."""
        keys: set[str] = set()
        grams: set[tuple[str, ...]] = set()
        for _, folder in sorted(against.items()):
            for record in records.read(folder / "heldout.jsonl"):
                keys.add(record["key"])
                if record["source"] not in MADE_UP:
                    for text in _sayings(record):
                        grams.update(_grams(words(text), n))
        return cls(frozenset(keys), frozenset(grams), n)

    def holds(self, key: str, sayings: tuple[str, ...]) -> bool:
        """Whether an item is held out elsewhere, or one of its texts shares `n` words in a row with one."""
        if key in self.keys:
            return True
        if not self.grams:
            return False
        return any(gram in self.grams for text in sayings for gram in _grams(words(text), self.n))


def _grams(found: list[str], n: int) -> zip[tuple[str, ...]]:
    return zip(*(found[i:] for i in range(n)), strict=False)


def _sayings(record: Record) -> list[str]:
    """The texts that carry a held-out record's content: not the questions about Python, which share forms."""
    if "text" in record:
        return [record["text"]]
    turns = record["messages"] if "messages" in record else record["prompt"]
    said = [
        turn["content"] for turn in turns if turn["role"] == "assistant" or record["source"] != "python-docs"
    ]
    return [*said, *(record[name] for name in ("chosen", "completion") if name in record)]
