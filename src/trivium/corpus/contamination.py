"""Held-out items of other data stages, and whether a training item has been seen among them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trivium.corpus import records
from trivium.corpus.records import Record
from trivium.corpus.words import plain_keys
from trivium.files import atomic_path

MADE_UP = frozenset({"reasoning", "refusals", "primer"})
"""Sources whose texts follow fixed forms: sharing words says nothing, so only keys are compared."""

OVERLAP = "overlap.jsonl"
"""In a data artifact: evaluation items that its training documents share words with, {"stage", "key"} a line."""


def sayings(record: Record) -> list[str]:
    """The texts that carry a record's content: none of made-up tasks, not the questions about Python, which share forms."""
    if records.kind_of(record) in MADE_UP:
        return []
    if "text" in record:
        return [record["text"]]
    turns = record["messages"] if "messages" in record else record["prompt"]
    said = [
        records.said(turn)
        for turn in turns
        if turn["role"] == "assistant" or records.kind_of(record) != "python-docs"
    ]
    return [*said, *(record[name] for name in ("chosen", "completion") if name in record)]


class Evaluated:
    """Held-out items of other data stages, to look for in a corpus of any size: keys, and sorted hashes of n-grams.

    `keys[i]` and `stages[i]` belong to item i; `grams` (grams,) uint64 ascending, `items` (grams,) int64.
    """

    def __init__(
        self, n: int, names: list[str], keys: list[str], stages: list[int], grams: Any, items: Any
    ) -> None:
        self.n, self.names, self.keys, self.stages = n, names, keys, np.array(stages, np.int64)
        self.grams, self.items = grams, items
        self._of_key: dict[str, list[int]] = {}
        for item, key in enumerate(keys):
            self._of_key.setdefault(key, []).append(item)
        self.met: dict[str, list[int]] = {}
        """Key of a record -> the items it has met."""

    @classmethod
    def read(cls, against: dict[str, Path], n: int) -> Evaluated:
        """From the held-out split of each folder in `against`. DataError if one is missing or unreadable."""
        names = sorted(against)
        keys: list[str] = []
        stages: list[int] = []
        grams: list[np.ndarray] = [np.zeros(0, np.uint64)]
        items: list[np.ndarray] = [np.zeros(0, np.int64)]
        for stage, name in enumerate(names):
            for record in records.read(against[name] / "heldout"):
                found = [plain_keys(text, n) for text in sayings(record)]
                grams += found
                items += [np.full(len(hashes), len(keys), np.int64) for hashes in found]
                keys.append(record["key"])
                stages.append(stage)
        flat, owners = np.concatenate(grams), np.concatenate(items)
        order = np.lexsort((owners, flat))
        return cls(n, names, keys, stages, flat[order], owners[order])

    def save(self, path: Path) -> None:
        said = {"n": self.n, "names": self.names, "keys": self.keys, "stages": self.stages.tolist()}
        about = np.frombuffer(json.dumps(said).encode(), np.uint8)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, about=about, grams=self.grams, items=self.items)

    @classmethod
    def load(cls, path: Path) -> Evaluated:
        with np.load(path, allow_pickle=False) as found:
            said = json.loads(found["about"].tobytes())
            return cls(said["n"], said["names"], said["keys"], said["stages"], found["grams"], found["items"])

    def overlap(self, key: str, texts: Sequence[str]) -> int:
        """Bit i is set if a record has the key of, or one of its texts n words in a row with, an item of stage i (by name)."""
        hit = list(self._of_key.get(key, ()))
        if len(self.grams):
            for text in texts:
                hashes = np.unique(plain_keys(text, self.n))
                low = np.searchsorted(self.grams, hashes, "left")
                high = np.searchsorted(self.grams, hashes, "right")
                for start, stop in zip(low[high > low].tolist(), high[high > low].tolist(), strict=True):
                    hit += self.items[start:stop].tolist()
        mask = 0
        for item in set(hit):
            mask |= 1 << int(self.stages[item])
        if hit:
            self.met[key] = sorted({*hit, *self.met.get(key, ())})
        return mask
