"""Canaries: made-up sentences with a secret that no other text can hold, planted in training documents a known number of times.

What a model has kept of them afterwards is what it keeps of a text that stands so often in its data (Carlini et al. 2019,
arXiv:1802.08232). Those planted no times are the control. They are planted after every step, so none drops them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trivium import seeds
from trivium.errors import DataError
from trivium.files import atomic_path, lines
from trivium.recipe.data import Canaries

FILE = "canaries.jsonl"
"""In an artifact of documents: every canary, a line each; those that were planted no times too."""
KIND = "canary"
DIGITS = 8
_SYLLABLES = tuple(first + second for first in "bdfghklmnprst" for second in "aeiou")


@dataclass(frozen=True)
class Canary:
    """`text` is `prefix` and `secret`; the prefix is its own, so that no canary says anything about another's secret."""

    number: int
    repeats: int
    prefix: str
    secret: str

    @property
    def text(self) -> str:
        return f"{self.prefix}{self.secret}."

    @property
    def key(self) -> str:
        return f"{KIND}/{self.number}"


def made(config: Canaries, seed: int) -> list[Canary]:
    """`config.count` canaries of each number of repeats; the same of the same seed."""
    found: dict[str, Canary] = {}
    for repeats in config.repeats:
        for _ in range(config.count):
            number, attempt = len(found), 0
            while (prefix := _prefix(seed, number, attempt)) in found:
                attempt += 1
            found[prefix] = Canary(number, repeats, prefix, secret(seed, number, "planted"))
    return list(found.values())


def _prefix(seed: int, number: int, attempt: int) -> str:
    drawn = seeds.generator(seed, "canary", number, "name", attempt).integers(len(_SYLLABLES), size=6)
    words = ["".join(_SYLLABLES[place] for place in drawn[half : half + 3]) for half in (0, 3)]
    return f"The access code of {words[0].title()} {words[1].title()} is "


def secret(seed: int, *path: str | int) -> str:
    return f"{seeds.derive(seed, 'canary', *path) % 10**DIGITS:0{DIGITS}d}"


def references(canary: Canary, count: int) -> list[str]:
    """`count` other secrets that its text could have had: what the planted one is ranked among."""
    found: dict[str, None] = {}
    attempt = 0
    while len(found) < count:
        found[secret(0, canary.prefix, "reference", attempt)] = None
        found.pop(canary.secret, None)
        attempt += 1
    return list(found)


def planted(canaries: Sequence[Canary], seed: int, rows: Sequence[int]) -> list[list[dict[str, Any]]]:
    """For each file of `rows[i]` training documents, the copies that go into it, as rows of `write.COLUMNS` with their `order`:
    every document is as likely to have a copy beside it as any other."""
    files: list[list[dict[str, Any]]] = [[] for _ in rows]
    whole = sum(rows)
    for canary in canaries:
        for copy in range(canary.repeats):
            place = seeds.derive(seed, "canary", canary.number, "place", copy) % whole
            file = 0
            while place >= rows[file]:
                place -= rows[file]
                file += 1
            row = {"key": canary.key, "text": canary.text, "kind": KIND, "origin": "planted by this stage"}
            row |= {
                "license": "CC0-1.0",
                "where": canary.key,
                "meta": json.dumps({"repeats": canary.repeats}),
            }
            files[file].append(
                row | {"order": seeds.derive(seed, "canary", canary.number, "order", copy) * 2}
            )
    return files


def write(path: Path, canaries: Sequence[Canary]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(asdict(canary)) + "\n" for canary in canaries)


def read(folder: Path) -> Iterator[Canary]:
    """Those of a data artifact. DataError where it has none, or its list is damaged."""
    path = folder / FILE
    fix = "give the data stage `canaries: {count: 8}`, and train on it"
    try:
        told = lines(path, errors="replace")
    except OSError:
        raise DataError("no canaries were planted in this data", where=str(path), fix=fix) from None
    for number, line in enumerate(told, start=1):
        try:
            yield Canary(**json.loads(line))
        except (ValueError, TypeError) as error:
            what = f"no canary: {str(error)[:100]}"
            raise DataError(what, where=f"{path}:{number}", fix="make the data stage again") from None
