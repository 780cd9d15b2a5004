"""What makes two stages the same: their identity, hashed.

Identity covers the config (but not fields made with `how()`), the kind and its version, the recipe's seed,
what the kind adds itself, and the fingerprints of the inputs by role. Names of stages and recipes are no
part of it: a renamed stage or a copied recipe re-uses what is stored.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from trivium.errors import RecipeError
from trivium.files import canonical_json
from trivium.pipeline import withdrawals
from trivium.pipeline.contract import Registry
from trivium.pipeline.graph import Graph
from trivium.recipe import kinds
from trivium.recipe.data import DataStage
from trivium.recipe.evaluation import EvaluateStage
from trivium.recipe.models import Recipe
from trivium.seeds import derive

Identity = dict[str, Any]
_ABSENT = object()
_ADDED = ("version", "seed", "extra", "inputs")  # beside the config's own fields


def stable(value: Any, path: str = "identity") -> Any:
    """`value` as plain JSON, without `how()` fields and references. TypeError if it has no stable bytes."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"{path} is {value}: a number that is not finite has no stable bytes")
        return value
    if isinstance(value, list | tuple):
        return [stable(item, f"{path}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{path} has the key {key!r}: only strings have stable bytes as keys")
        return {key: stable(item, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, BaseModel):
        left_out = getattr(type(value), "references", ())
        return {
            name: stable(getattr(value, name), f"{path}.{name}")
            for name, field in type(value).model_fields.items()
            if name not in left_out and not _says_how(field.json_schema_extra)
        }
    raise TypeError(f"{path} is a {type(value).__name__}, which has no stable bytes")


def _says_how(extra: Any) -> bool:
    return isinstance(extra, dict) and extra.get("identity") is False


def fingerprint(identity: Identity) -> str:
    """SHA-256 of the identity's canonical JSON, in hexadecimal. TypeError if there is none."""
    return hashlib.sha256(canonical_json(stable(identity)).encode()).hexdigest()


def stage_seed(recipe: Recipe, name: str) -> int:
    """The seed a stage draws from. By kind, not by name: renaming a stage must not change what it makes."""
    return derive(_seed(recipe, name), recipe.stages[name].kind)


def _seed(recipe: Recipe, name: str) -> int:
    own = recipe.stages[name].seed
    return recipe.seed if own is None else own


def identify(
    recipe: Recipe,
    graph: Graph,
    registry: Registry,
    recipe_folder: Path,
    names: tuple[str, ...] | None = None,
) -> dict[str, Identity]:
    """Stage -> identity, for `names` (inputs before what is made from them; None: all).

    Nothing has to have run: an identity depends on the inputs' fingerprints alone.
    """
    identities: dict[str, Identity] = {}
    prints: dict[str, str] = {}
    withdrawn, without = withdrawals.read(recipe_folder), set[str]()
    for name in graph.order if names is None else names:
        config = recipe.stages[name]
        kind = registry.get(config.kind)
        if kind is None:
            raise RecipeError(
                f"stages of the kind {config.kind!r} cannot be run yet",
                where=f"stages.{name}.kind",
                fix=f"the kinds that can: {', '.join(sorted(registry))}",
            )
        identity = stable(config)
        identity.pop("seed", None)
        if taken := set(identity) & set(_ADDED):
            raise ValueError(f"{type(config).__name__} may not have fields named {sorted(taken)}")
        identity["version"], identity["seed"] = kind.version, _seed(recipe, name)
        extra = kind.identity(config, recipe_folder)
        if plugins := kinds.provenance(config):
            extra = {**extra, "plugins": plugins}
        identity["extra"] = stable(extra, "extra")
        identity["inputs"] = {role: prints[parent] for role, parent in graph.roles[name].items()}
        if isinstance(config, DataStage):
            withdrawals.add(identity, fingerprint(identity), withdrawn)
        if withdrawals.held(identity) or without.intersection(graph.inputs(name)):
            without.add(name)
            if isinstance(config, EvaluateStage):
                withdrawals.ask(identity)
        identities[name], prints[name] = identity, fingerprint(identity)
    return identities


def differences(old: Identity, new: Identity, names: Mapping[str, str] | None = None) -> list[str]:
    """What changed, readably: `beta: 0.1 -> 0.2`, `sources[1].weight: 0.3 -> 0.4`, `input chat changed`.

    `names`: role -> name of the stage that fills it now, for the lines about inputs.
    """
    lines: list[str] = []
    if old.get("kind") != new.get("kind"):
        return [f"kind: {old.get('kind')} -> {new.get('kind')}"]
    for key in dict.fromkeys([*new, *old]):
        if key == "version" and old.get(key) != new.get(key):
            lines.append(f"version of the stage kind: {_show(old.get(key))} -> {_show(new.get(key))}")
        elif key == "extra":
            lines += [line.removeprefix("extra.") for line in _compare("extra", old.get(key), new.get(key))]
        elif key not in ("version", "inputs"):
            lines += _compare(key, old.get(key, _ABSENT), new.get(key, _ABSENT))
    return lines + list(dict.fromkeys(_inputs(old.get("inputs", {}), new.get("inputs", {}), names or {})))


def _inputs(old: dict[str, str], new: dict[str, str], names: Mapping[str, str]) -> Iterator[str]:
    for role in dict.fromkeys([*new, *old]):
        if old.get(role) != new.get(role):
            verb = "added" if role not in old else "removed" if role not in new else "changed"
            yield f"input {names.get(role, role)} {verb}"


def _compare(path: str, old: Any, new: Any) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*new, *old]):
            yield from _compare(f"{path}.{key}", old.get(key, _ABSENT), new.get(key, _ABSENT))
    elif isinstance(old, list) and isinstance(new, list):
        for i in range(max(len(old), len(new))):
            pair = (side[i] if i < len(side) else _ABSENT for side in (old, new))
            yield from _compare(f"{path}[{i}]", *pair)
    elif old is _ABSENT or new is _ABSENT or json.dumps(old) != json.dumps(new):
        yield f"{path}: {_show(old)} -> {_show(new)}"


def _show(value: Any) -> str:
    if value is _ABSENT:
        return "(absent)"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
