"""Where something stands, said the same way in every error: `recipe.yaml:12, stage base, field lr`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from trivium.errors import RecipeError

Path = tuple[str | int, ...]
"""A place in the recipe, from its root: ("stages", "base", "model", "dim")."""


def dotted(path: Iterable[str | int]) -> str:
    """("sources", 0, "weight") -> `sources[0].weight`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


@dataclass
class Lines:
    """The line of every key and list item, or the override that set it. Empty for a recipe made in Python"""

    file: str = ""
    lines: dict[Path, int] = field(default_factory=dict)
    overrides: dict[Path, str] = field(default_factory=dict)

    def where(self, path: Path) -> str:
        """The place of `path`; for a key that is missing, the line of the nearest thing around it."""
        parts = [self._position(path)]
        if path[:1] == ("stages",) and len(path) > 1:
            parts.append(f"stage {path[1]}")
            path = path[2:]
        if path:
            parts.append(f"field {dotted(path)}")
        return ", ".join(part for part in parts if part)

    def _position(self, path: Path) -> str:
        for length in range(len(path), -1, -1):
            if path[:length] in self.overrides:
                return f"-o {self.overrides[path[:length]]}"
            if path[:length] in self.lines:
                return f"{self.file}:{self.lines[path[:length]]}"
        return self.file


def nearest(word: object, choices: Iterable[str]) -> str:
    """`did you mean ...? ` for a word close to one of the choices, else an empty string."""
    close = difflib.get_close_matches(str(word), list(choices), n=1, cutoff=0.55)
    return f"did you mean `{close[0]}`? " if close else ""


def listed(words: Iterable[object]) -> str:
    return ", ".join(map(str, words)) or "(none)"


def together(errors: Sequence[RecipeError], file: str) -> RecipeError:
    """One error for several: a numbered list of all, so that one look finds them; one alone is itself."""
    if len(errors) == 1:
        return errors[0]
    blocks = [f"{number}. {error}".replace("\n", "\n   ") for number, error in enumerate(errors, 1)]
    return RecipeError(
        f"{len(errors)} mistakes in the recipe:\n\n" + "\n\n".join(blocks) + "\n",
        where=file,
        fix="correct each of them; nothing has been run",
    )
