"""Which model class describes a place of a raw recipe, so that messages can list what is valid there."""

from __future__ import annotations

from typing import Any, get_args

from trivium.recipe import models
from trivium.recipe.lines import Path


def _by_kind(union: Any) -> dict[str, type[models.Strict]]:
    """An annotated union of models, told apart by `kind` -> {kind: model}."""
    members = get_args(get_args(union)[0])
    return {get_args(member.model_fields["kind"].annotation)[0]: member for member in members}


STAGES = _by_kind(models.Stage)
SOURCES = _by_kind(models.Source)


def value_at(raw: Any, path: Path) -> Any:
    """The raw value at `path`, None where there is none."""
    for part in path:
        if isinstance(raw, dict):
            raw = raw.get(part)
        elif isinstance(raw, list) and isinstance(part, int) and part < len(raw):
            raw = raw[part]
        else:
            return None
    return raw


def class_at(raw: Any, path: Path) -> type[models.Strict] | None:
    """The model that describes the mapping at `path`; None if its keys are free or its kind is unknown."""
    if not path:
        return models.Recipe
    kind = (value_at(raw, path) or {}).get("kind") if isinstance(value_at(raw, path), dict) else None
    if path[0] != "stages" or len(path) < 2:
        return None
    if len(path) == 2:
        return STAGES.get(str(kind))
    match path[2:]:
        case ("sources", int()):
            return SOURCES.get(str(kind))
        case ("suites", int()):
            return models.Suite
        case ("gates", str()):
            return models.Gate
        case ("model",):
            return models.ModelShape
    return None


def fields_at(raw: Any, path: Path) -> list[str] | None:
    """The valid keys of the mapping at `path`; None if they are free or not known."""
    found = class_at(raw, path)
    return None if found is None else list(found.model_fields)
