"""Which stages a stage refers to, in which field, and what kind they must be."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from trivium.recipe.lines import Path
from trivium.recipe.models import CHECKPOINTS

_MODELS = CHECKPOINTS | {"quantize"}
_MEASURED = _MODELS | {"export"}
_WANTED: dict[str, frozenset[str]] = {
    "data": frozenset({"data", "synthesize"}),
    "decontaminate": frozenset({"data", "synthesize"}),
    "tokenizer": frozenset({"tokenizer", "import"}),
    "init": CHECKPOINTS,
    "teacher": CHECKPOINTS,
    "reward_model": frozenset({"reward"}),
    "requires": frozenset({"evaluate"}),
    "model": _MODELS,
    "baseline": _MODELS,
    "compare": _MODELS,
    "stage": frozenset({"data", "synthesize"}),
}


def references(config: object, path: Path = ()) -> list[tuple[Path, str]]:
    """(place within the stage, name of the stage referred to), in the order of fields, nested models included."""
    found: list[tuple[Path, str]] = []
    if isinstance(config, BaseModel):
        holders = getattr(type(config), "references", ())
        for field in type(config).model_fields:
            value: Any = getattr(config, field)
            if field not in holders:
                found += references(value, (*path, field))
            elif isinstance(value, str):
                found.append(((*path, field), value))
            elif value is not None:
                found += [((*path, field, index), name) for index, name in enumerate(value)]
    elif isinstance(config, list):
        for index, item in enumerate(config):
            found += references(item, (*path, index))
    return found


def wanted(kind: str, place: Path) -> frozenset[str]:
    """The kinds that the stage referred to at `place` of a stage of `kind` may have."""
    field = next(part for part in reversed(place) if isinstance(part, str))
    if kind == "evaluate" and place[0] == field and _WANTED[field] is _MODELS:
        return _MEASURED
    return CHECKPOINTS if field == "model" and kind in ("quantize", "prune", "export") else _WANTED[field]
