"""The graph that stages form through the names they refer to."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trivium.errors import RecipeError
from trivium.recipe.data import DataStage
from trivium.recipe.models import Recipe
from trivium.recipe.references import references


def role(place: Sequence[str | int]) -> str:
    """The path of a reference within its stage as one word: ("suites", 0, "data") -> `suites[0].data`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")


def placed(fields: Mapping[str, Any], role: str, name: str) -> dict[str, Any]:
    """`fields` of a stage with `name` where `role` (see `role`) is, in copies of what holds it."""
    keys = [
        int(part) if part.isdigit() else part for part in role.replace("]", "").replace("[", ".").split(".")
    ]

    def put(value: Any, keys: Sequence[str | int]) -> Any:
        if not keys:
            return name
        if isinstance(keys[0], int):
            held = [*(value or []), *[None] * (keys[0] + 1 - len(value or []))]
            return [*held[: keys[0]], put(held[keys[0]], keys[1:]), *held[keys[0] + 1 :]]
        return {**(value or {}), keys[0]: put((value or {}).get(keys[0]), keys[1:])}

    made: dict[str, Any] = put(fields, keys)
    return made


@dataclass(frozen=True)
class Graph:
    """Which stage is made from which."""

    roles: dict[str, dict[str, str]]
    """Stage -> {role: name of the stage that fills it}."""
    order: tuple[str, ...]
    """Every stage after its inputs; where the graph leaves a choice, the order of the recipe."""

    def inputs(self, name: str) -> tuple[str, ...]:
        """The stages that `name` refers to itself, each once."""
        return tuple(dict.fromkeys(self.roles[name].values()))

    def ancestors(self, names: Iterable[str]) -> frozenset[str]:
        """Everything that `names` are made from, directly or not."""
        found: set[str] = set()
        todo = [parent for name in names for parent in self.inputs(name)]
        while todo:
            name = todo.pop()
            if name not in found:
                found.add(name)
                todo.extend(self.inputs(name))
        return frozenset(found)


def build(recipe: Recipe) -> Graph:
    """The recipe's graph. RecipeError for a name that is no stage, or a circle."""
    roles = {
        name: {role(place): target for place, target in references(config)}
        for name, config in recipe.stages.items()
    }
    for name, used in roles.items():
        for field, other in used.items():
            if other not in roles:
                raise unknown(other, recipe, where=f"stages.{name}.{field}")
    order: list[str] = []
    while len(order) < len(roles):
        ready = next(
            (n for n in roles if n not in order and all(p in order for p in roles[n].values())),
            None,
        )
        if ready is None:
            circle = ", ".join(n for n in roles if n not in order)
            raise RecipeError(
                f"stages refer to each other in a circle: {circle}",
                where=f"recipe {recipe.name}",
                fix="let each stage use only stages that can be finished before it",
            )
        order.append(ready)
    return Graph(roles, tuple(order))


def execution_order(recipe: Recipe, graph: Graph, only: Sequence[str] | None = None) -> tuple[str, ...]:
    """The stages to walk: `only` and what they need (None: all), data stages first.

    Data comes first so that whatever is wrong with it, overlaps included, is found before any training.
    RecipeError for a name in `only` that is no stage.
    """
    wanted = set(graph.order if only is None else only)
    for name in wanted - set(graph.order):
        raise unknown(name, recipe, where=f"recipe {recipe.name}")
    wanted |= graph.ancestors(wanted)

    def is_data(name: str) -> bool:
        return all(isinstance(recipe.stages[n], DataStage) for n in {name, *graph.ancestors([name])})

    return tuple(sorted((n for n in graph.order if n in wanted), key=lambda n: not is_data(n)))


def unknown(name: str, recipe: Recipe, *, where: str) -> RecipeError:
    """The error for a name that is no stage of the recipe, with the nearest one that is."""
    near = difflib.get_close_matches(name, recipe.stages, n=1)
    fix = f"did you mean {near[0]!r}?" if near else f"the stages are: {', '.join(recipe.stages)}"
    return RecipeError(f"there is no stage named {name!r}", where=where, fix=fix)
