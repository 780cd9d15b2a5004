"""Which model class describes a place of a raw recipe, so that messages can list what is valid there."""

from __future__ import annotations

from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from trivium.recipe.base import Strict
from trivium.recipe.lines import Path
from trivium.recipe.models import Recipe


def _members(annotation: Any) -> list[Any]:
    """The alternatives of an annotation, without `Annotated`, `| None` and the like around them."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [alternative for member in get_args(annotation) for alternative in _members(member)]
    return [annotation]


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
    models = [each for each in annotations if isinstance(each, type) and issubclass(each, Strict)]
    if len(models) > 1:
        models = [model for model in models if "kind" in model.model_fields and kind in _kinds(model)]
    return models


def _kinds(model: type[Strict]) -> tuple[Any, ...]:
    return get_args(model.model_fields["kind"].annotation)


def _annotations_at(raw: Any, path: Path) -> list[Any]:
    annotations: list[Any] = [Recipe]
    for depth, part in enumerate(path):
        annotations = _step(annotations, part, value_at(raw, path[:depth]))
    return annotations


def class_at(raw: Any, path: Path) -> type[Strict] | None:
    """The model that describes the mapping at `path`; None if its keys are free or its kind is unknown."""
    value = value_at(raw, path)
    models = _models(_annotations_at(raw, path), value.get("kind") if isinstance(value, dict) else None)
    return models[0] if models else None


def kinds_at(raw: Any, path: Path) -> list[str]:
    """The kinds that the mapping at `path` may be of."""
    models = [
        each for each in _annotations_at(raw, path) if isinstance(each, type) and issubclass(each, Strict)
    ]
    return [kind for model in models if "kind" in model.model_fields for kind in _kinds(model)]


def fields_at(raw: Any, path: Path) -> list[str] | None:
    """The valid keys of the mapping at `path`; None if they are free or not known."""
    model = class_at(raw, path)
    return None if model is None else list(model.model_fields)
