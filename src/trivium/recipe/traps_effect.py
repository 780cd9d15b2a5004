"""Fields that would change nothing where they stand: refused, with what they need beside them (`recipe.base.only`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from trivium.errors import RecipeError
from trivium.recipe.base import Strict
from trivium.recipe.lines import Path
from trivium.recipe.look import Look

Found = Iterator[RecipeError]


def without_effect(look: Look) -> Found:
    for name, stage in look.recipe.stages.items():
        for place, model in models(stage):
            for field in sorted(model.model_fields_set):
                cases = conditions(type(model), field)
                default = type(model).model_fields[field].get_default(call_default_factory=True)
                if not cases or getattr(model, field) == default or any(holds(case, model) for case in cases):
                    continue
                lacking = [item for item in cases[0].items() if not _met(*item, model)]
                yield look.error(
                    f"`{field}` is given, and {' and '.join(_as_it_is(key, model) for key, _ in lacking)}, so it changes nothing",
                    name,
                    *place,
                    field,
                    fix=f"it is read only {' or '.join(map(_wanted, cases))}: leave it out otherwise",
                )


def models(value: Any, place: Path = ()) -> Iterator[tuple[Path, Strict]]:
    """Every model within a stage, itself first, with where it stands."""
    if isinstance(value, Strict):
        yield place, value
        for field in type(value).model_fields:
            yield from models(getattr(value, field), (*place, field))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from models(item, (*place, key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from models(item, (*place, index))


def conditions(model: type[Strict], field: str) -> list[dict[str, Any]]:
    """The cases in which a field is read, as `only` was given them; none: always."""
    extra = model.model_fields[field].json_schema_extra
    cases: Any = extra.get("only", []) if isinstance(extra, dict) else []
    return list(cases)


def holds(case: Mapping[str, Any], model: Strict) -> bool:
    return all(_met(key, wanted, model) for key, wanted in case.items())


def _met(key: str, wanted: Any, model: Strict) -> bool:
    value = getattr(model, key)
    if isinstance(wanted, str):
        return bool(value) is (wanted == "set")
    return value in wanted


def _as_it_is(key: str, model: Strict) -> str:
    value = getattr(model, key)
    if key not in type(model).model_fields:  # known of the kind
        return f"`{vars(model).get('kind', '')}` does not do that"
    if value is None or value == [] or value == ():
        return f"there is no `{key}`"
    if isinstance(value, str | int | float):
        return f"`{key}` is {str(value).lower() if isinstance(value, bool) else value}"
    return f"there is `{key}`"


def _wanted(case: Mapping[str, Any]) -> str:
    def said(key: str, wanted: Any) -> str:
        if isinstance(wanted, list):
            return f"with `{key}: {' or '.join(wanted)}`"
        return f"{'with' if wanted == 'set' else 'without'} `{key}`"

    return " and ".join(said(key, wanted) for key, wanted in case.items())


TRAPS: tuple[Callable[[Look], Found], ...] = (without_effect,)
