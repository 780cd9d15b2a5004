"""What was understood of a configuration so far, and what is told of each of its fields."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from trivium.convert.dialects import EMPTY, meaning_of
from trivium.convert.values import MEANINGS, NotCarried


class Told(NamedTuple):
    """What became of a field."""

    field: str
    value: Any
    to: str
    """Where it stands in the recipe; empty if it does not."""
    why: str
    """Why it does not; empty if nothing is known of the field."""


@dataclass
class Draft:
    """What was understood so far: parts of the model, data and method by their tag, values by their meaning."""

    dialect: str
    parts: dict[str, list[tuple[str, Any]]] = field(default_factory=dict)
    values: dict[str, tuple[str, Any]] = field(default_factory=dict)
    told: dict[str, Told] = field(default_factory=dict)

    def tell(self, path: str, value: Any, to: str = "", why: str = "") -> None:
        if to or path not in self.told or not self.told[path].to:
            self.told[path] = Told(path, value, to, why)

    def part(self, tag: str) -> list[tuple[str, Any]]:
        return self.parts.get(tag, [])

    def drop(self, meaning: str, why: str) -> None:
        path, value = self.values.pop(meaning)
        self.told[path] = Told(path, value, "", why)


def fields(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from fields(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and value and all(isinstance(inner, dict) for inner in value):
        for inner in value:
            yield from fields(inner, f"{path}[]")
    else:
        yield path, value


def filled(value: Any, raw: dict[str, Any]) -> Any:
    """`${name}` in its place, as torchtune's configurations write it."""
    if isinstance(value, str):
        whole = re.fullmatch(r"\$\{(\w+)\}", value)
        if whole:
            return raw.get(whole[1], value)
        return re.sub(r"\$\{(\w+)\}", lambda found: str(raw.get(found[1], found[0])), value)
    return value


def take(draft: Draft, path: str, value: Any) -> None:
    meaning = meaning_of(draft.dialect, path)
    if value in (None, "", [], {}, ()) and meaning is not None:
        draft.tell(path, value, why=EMPTY)
    elif meaning is None:
        draft.tell(path, value)
    elif meaning[0] == "!":
        draft.tell(path, value, why=meaning[1:])
    elif meaning[0] == "@":
        draft.parts.setdefault(meaning[1:], []).append((path, value))
        draft.tell(path, value, why="it changes nothing here")
    else:
        if meaning == "int4_bits":
            meaning, value = ("int8" if value == 8 else "int4"), True
        to, written = MEANINGS[meaning]
        try:
            found = written(value)
        except NotCarried as reason:
            draft.tell(path, value, why=str(reason))
        else:
            if meaning not in draft.values:
                draft.values[meaning] = (path, found)
            draft.tell(path, value, to)
