"""The withdrawals that the recipes of a folder obey: a list beside them, and what of it a data stage is known by.

    FOLDER/withdrawn.jsonl   one JSON object a line: by, value (`trivium.corpus.withdrawn.Rule`), clean, time

`clean` are data stages, by the fingerprint that they have without withdrawals, that were searched and held nothing of it. They
stay what they are; every other one, and any that is not there yet, is made without what was withdrawn.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trivium.corpus.withdrawn import BY, Rule
from trivium.errors import RecipeError
from trivium.files import append, lines

NAME = "withdrawn.jsonl"
_KEY = "withdrawn"
ASKED = 2
"""Raised when an evaluation asks other things of what was withdrawn: those made after a withdrawal are then made again."""


@dataclass(frozen=True)
class Withdrawal:
    """One line of the list."""

    rule: Rule
    clean: frozenset[str]


def read(folder: Path) -> list[Withdrawal]:
    """The list in a recipe's folder; empty where there is none. RecipeError names a line that is none."""
    path = folder / NAME
    found = []
    given = lines(path) if path.is_file() else []
    for number, line in enumerate(given, start=1):
        try:
            said = json.loads(line)
            rule = Rule(said["by"], said["value"])
            if rule.by not in BY or not isinstance(rule.value, str) or not rule.value:
                raise ValueError(f"`by` is one of {', '.join(BY)}, `value` a text")
            found.append(Withdrawal(rule, frozenset(said.get("clean", ()))))
        except (ValueError, KeyError, TypeError) as error:
            raise RecipeError(
                f"a line that is no withdrawal: {error}",
                where=f"{path}, line {number}",
                fix="`trivium withdraw --apply` writes these lines; mend it or take it out",
            ) from None
    return found


def write(folder: Path, rule: Rule, clean: list[str], time: str) -> Path:
    """Adds a withdrawal to the list in a recipe's folder; its path."""
    path = folder / NAME
    said = {"by": rule.by, "value": rule.value, "clean": sorted(clean), "time": time}
    append(path, json.dumps(said, ensure_ascii=False))
    return path


def add(identity: dict[str, Any], fingerprint: str, withdrawn: list[Withdrawal]) -> None:
    """Puts into a data stage's identity what it has to obey; `fingerprint` is the one without it."""
    rules = sorted({tuple(one.rule) for one in withdrawn if fingerprint not in one.clean})
    if rules:
        identity["extra"][_KEY] = [list(rule) for rule in rules]


def ask(identity: dict[str, Any]) -> None:
    """Puts into the identity of an evaluation of what was made without something that it asks for that."""
    identity["extra"]["asks_withdrawn"] = ASKED


def bare(identity: dict[str, Any]) -> dict[str, Any]:
    """The identity that a data stage would have without withdrawals."""
    rest = {name: value for name, value in identity["extra"].items() if name != _KEY}
    return {**identity, "extra": rest}


def held(identity: dict[str, Any]) -> tuple[Rule, ...]:
    """What a data stage of this identity is made without."""
    return tuple(Rule(*rule) for rule in (identity.get("extra") or {}).get(_KEY, ()))
