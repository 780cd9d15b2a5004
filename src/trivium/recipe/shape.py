"""Which model class describes a place of a raw recipe, so that messages can list what is valid there."""

from __future__ import annotations

from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from trivium.recipe.base import Strict
from trivium.recipe.kinds import kind_of
from trivium.recipe.lines import Path
from trivium.recipe.models import Recipe
from trivium.recipe.sources import Source


def _members(annotation: Any) -> list[Any]:
    """The alternatives of an annotation, without `Annotated`, `| None` and the like around them."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [one for member in get_args(annotation) for one in _members(member)]
    return [annotation]


SOURCES: dict[str, type[Strict]] = {kind_of(model): model for model in _members(Source)}


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


def _step(annotations: list[Any], part: str | int, raw: Any) -> list[Any]:
    """From the annotations of a value to those of its member `part`; `raw` is the value itself."""
    kind = raw.get("kind") if isinstance(raw, dict) else None
    for annotation in annotations:
        origin, inner = get_origin(annotation), get_args(annotation)
        if origin is list and isinstance(part, int):
            return _members(inner[0])
        if origin is dict and isinstance(part, str):
            return _members(inner[1])
    for model in _models(annotations, kind):
        if part in model.model_fields:
            return _members(model.model_fields[str(part)].annotation)
    return []


def _models(annotations: list[Any], kind: Any) -> list[type[Strict]]:
    """The model classes among annotations; where several are told apart by `kind`, the one it names."""
    found = [one for one in annotations if isinstance(one, type) and issubclass(one, Strict)]
    if len(found) > 1:
        found = [one for one in found if "kind" in one.model_fields and kind in _kinds(one)]
    return found


def _kinds(model: type[Strict]) -> tuple[Any, ...]:
    return get_args(model.model_fields["kind"].annotation)


def class_at(raw: Any, path: Path) -> type[Strict] | None:
    """The model that describes the mapping at `path`; None if its keys are free or its kind is unknown."""
    annotations: list[Any] = [Recipe]
    for depth, part in enumerate(path):
        annotations = _step(annotations, part, value_at(raw, path[:depth]))
    value = value_at(raw, path)
    found = _models(annotations, value.get("kind") if isinstance(value, dict) else None)
    return found[0] if found else None


def fields_at(raw: Any, path: Path) -> list[str] | None:
    """The valid keys of the mapping at `path`; None if they are free or not known."""
    found = class_at(raw, path)
    return None if found is None else list(found.model_fields)
