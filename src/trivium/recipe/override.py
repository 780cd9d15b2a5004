"""`-o chat.lr=2e-5`: one value of the recipe replaced from the command line, before it is checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trivium.errors import RecipeError
from trivium.recipe import reader
from trivium.recipe.lines import Lines, Path, dotted, listed, nearest
from trivium.recipe.names import meant
from trivium.recipe.shape import fields_at

_TOP = ("name", "seed")


def apply(raw: dict[str, Any], overrides: Sequence[str], lines: Lines) -> None:
    """Puts each override into `raw`, in order, and notes it in `lines` as the place of what it sets.

    RecipeError for a text without `=`, a path that leads nowhere or a value that is no YAML.
    """
    for text in overrides:
        key, equals, value = text.partition("=")
        parts = key.strip().replace("[", ".").replace("]", "").split(".")
        if not equals or not all(parts):
            raise RecipeError(
                f"`{text}` is no override",
                where=f"-o {text}",
                fix="write -o STAGE.FIELD=VALUE, such as -o base.lr=2e-3",
            )
        path = _find(raw, parts, text)
        parent = raw
        for part in path[:-1]:
            parent = parent[part]  # type: ignore[index]
        try:
            parent[path[-1]] = reader.scalar(value)  # type: ignore[index]
        except RecipeError as error:
            raise RecipeError(error.what, where=f"-o {text}", fix=error.fix) from error
        lines.overrides = {old: said for old, said in lines.overrides.items() if old[: len(path)] != path}
        lines.overrides[path] = text
        for old in [old for old in lines.lines if len(old) > len(path) and old[: len(path)] == path]:
            del lines.lines[old]


def _find(raw: dict[str, Any], parts: list[str], text: str) -> Path:
    """The path that the dotted parts name; mappings missing on the way (`base.model`) are created."""
    stages = raw.get("stages")
    if len(parts) == 1 and parts[0] in _TOP:
        return (parts[0],)
    if not isinstance(stages, dict):
        raise RecipeError(
            "the recipe has no stages", where=f"-o {text}", fix="write `stages:` as a mapping of names"
        )
    if parts[0] not in stages or len(parts) == 1:
        known = [*_TOP, *(f"{name}.FIELD" for name in stages)]
        hint = nearest(parts[0], [*_TOP, *stages])
        raise RecipeError(
            f"`{parts[0]}` is a stage, and an override sets one of its fields"
            if parts[0] in stages
            else f"the recipe has no stage `{parts[0]}`",
            where=f"-o {text}",
            fix=f"{'' if parts[0] in stages else hint}valid here: {listed(known)}",
        )
    path: Path = ("stages", parts[0])
    here: Any = stages[parts[0]]
    for position, part in enumerate(parts[1:], 1):
        last = position == len(parts) - 1
        step = _step(raw, path, here, part, text)
        path = (*path, step)
        if not last:
            if isinstance(here, dict) and here.get(part) is None:
                here[part] = {}
            here = here[step]
    return path


def _step(raw: dict[str, Any], path: Path, here: Any, part: str, text: str) -> str | int:
    """One part of the path as a key or an index, if it can exist there."""
    if isinstance(here, list):
        if part.isdigit() and int(part) < len(here):
            return int(part)
        raise RecipeError(
            f"`{dotted(path[1:])}` is a list of {len(here)}, and `{part}` is none of its indexes",
            where=f"-o {text}",
            fix=f"write an index from 0 to {len(here) - 1}"
            if here
            else "the list is empty; write it in the recipe",
        )
    if not isinstance(here, dict):
        raise RecipeError(
            f"`{dotted(path[1:])}` is a single value and has no field `{part}`",
            where=f"-o {text}",
            fix=f"write -o {dotted(path[1:])}=VALUE",
        )
    valid = fields_at(raw, path)
    if valid is not None and part not in valid:
        raise RecipeError(
            f"`{dotted(path[1:])}` has no field `{part}`",
            where=f"-o {text}",
            fix=f"{meant(part, valid)}valid here: {listed(valid)}",
        )
    return part
