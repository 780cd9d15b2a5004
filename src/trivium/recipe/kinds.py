"""Kinds that other packages add, through Python entry points; and what an artifact says of the packages it was made with.

A package declares a model of the recipe (a class with a literal `kind`, light to import) under the group it belongs to:

    [project.entry-points."trivium.objectives"]
    margin = "trivium_margin.stage:MarginStage"

The model is what a recipe may say; its classmethod `implementation()` imports and returns what carries it out: a row of the table
of phases (`trivium.phases.Phase`) for an objective, and its like for a source, a step, a suite, a verifier, an attack, a harm, a
judge. There is no other way by which a name becomes code of another package.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args

from pydantic import BaseModel, Field

from trivium.errors import RecipeError
from trivium.recipe.base import Strict

Group = Literal[
    "trivium.objectives", "trivium.sources", "trivium.steps", "trivium.suites", "trivium.verifiers",
    "trivium.attacks", "trivium.harms", "trivium.judges",
]  # fmt: skip
M = TypeVar("M", bound=Strict)


@dataclass(frozen=True)
class PlugIn:
    """A kind of a recipe that another package brings."""

    group: str
    kind: str
    model: type[Strict]
    entry: metadata.EntryPoint

    def implementation(self) -> Any:
        """What carries the kind out; imported now."""
        return self.model.implementation()  # type: ignore[attr-defined]

    def provenance(self) -> dict[str, str]:
        """The distribution, its version and the SHA-256 over its files: what an artifact made with it is known by."""
        assert self.entry.dist is not None
        return {
            "distribution": self.entry.dist.name,
            "version": self.entry.dist.version,
            "sha256": _hash(self.entry),
        }


def kind_of(model: type[BaseModel]) -> str:
    """The literal `kind` of a model of the recipe."""
    kinds: tuple[str, ...] = get_args(model.model_fields["kind"].annotation)
    return kinds[0]


@cache
def plugins(group: Group) -> Mapping[str, PlugIn]:
    """Kind -> what brings it, of all packages that are installed here, in the order of the kinds.

    RecipeError for a package whose entry point cannot be loaded or is no model of that kind, and for two that bring the same.
    """
    found: dict[str, PlugIn] = {}
    for entry in sorted(metadata.entry_points(group=group), key=lambda entry: entry.name):
        owner = f"the package `{entry.dist.name if entry.dist else '?'}`"
        where = f"entry point {entry.name} = {entry.value} of {group}"
        mend = f"mend {owner} or uninstall it"
        try:
            model = entry.load()
        except Exception as error:  # code of others: whatever it raises
            said = f"{type(error).__name__}: {error}"
            raise RecipeError(f"{owner} cannot be loaded: {said}", where=where, fix=mend) from error
        if not (isinstance(model, type) and issubclass(model, Strict) and hasattr(model, "implementation")):
            what = f"{owner} offers no model of a recipe with a classmethod `implementation`"
            raise RecipeError(what, where=where, fix=mend)
        if kind_of(model) != entry.name:
            what = f"{owner} calls the kind `{entry.name}`, and its model calls it `{kind_of(model)}`"
            raise RecipeError(what, where=where, fix=mend)
        if entry.name in found:
            what = f"two packages bring the kind `{entry.name}`"
            raise RecipeError(what, where=where, fix="uninstall one of them")
        found[entry.name] = PlugIn(group, entry.name, model, entry)
    return found


def added(group: Group, base: type[M], own: Iterable[str] = ()) -> dict[str, type[M]]:
    """Kind -> model of the plug-ins of a group. RecipeError where one is no `base`, or has the name of one of our `own` kinds."""
    models: dict[str, type[M]] = {}
    for kind, plugin in plugins(group).items():
        where = f"entry point {kind} = {plugin.entry.value} of {group}"
        if not issubclass(plugin.model, base):
            raise RecipeError(
                f"`{kind}` is no {base.__name__}", where=where, fix=f"make it a subclass of {base.__module__}"
            )
        if kind in set(own):
            raise RecipeError(f"`{kind}` is a kind of Trivium's own", where=where, fix="give it another name")
        models[kind] = plugin.model
    return models


def union(group: Group, base: type[Strict], *own: type[Strict]) -> Any:
    """The models of `own` and those that plug-ins add to them, as one type that pydantic tells apart by `kind`."""
    more = added(group, base, map(kind_of, own)).values()
    return Annotated[Union[(*own, *more)], Field(discriminator="kind")]


def provenance(config: object) -> dict[str, dict[str, str]]:
    """Of every plug-in that a stage's config uses, at any depth: {"trivium.steps: shout": {distribution, version, sha256}}."""
    found = {}
    for group in get_args(Group):
        for kind, plugin in plugins(group).items():
            if plugin in _used(config):
                found[f"{group}: {kind}"] = plugin.provenance()
    return found


def _used(value: object) -> Iterator[PlugIn]:
    """The plug-ins whose models a config holds, and those that it names in a field that says so (`named_kinds`)."""
    if isinstance(value, BaseModel):
        named: Mapping[str, Group] = getattr(type(value), "named_kinds", {})
        for field in type(value).model_fields:
            content = getattr(value, field)
            names = content if isinstance(content, list) else [content]
            if field in named:
                yield from (plugins(named[field])[name] for name in names if name in plugins(named[field]))
            yield from _used(content)
        everything = (plugin for group in get_args(Group) for plugin in plugins(group).values())
        yield from (plugin for plugin in everything if plugin.model is type(value))
    elif isinstance(value, Mapping):
        yield from (plugin for content in value.values() for plugin in _used(content))
    elif isinstance(value, list | tuple):
        yield from (plugin for content in value for plugin in _used(content))


def _hash(entry: metadata.EntryPoint) -> str:
    """SHA-256 over names and bytes of the files that a distribution records, and of its package (which may lie elsewhere)."""
    root = hashlib.sha256()
    for name, path in sorted(_files(entry).items()):
        root.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return root.hexdigest()


def _files(entry: metadata.EntryPoint) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for listed in (entry.dist.files if entry.dist else None) or ():
        path = Path(str(listed.locate()))
        if ".dist-info" not in listed.parts[0] and ".." not in listed.parts and path.suffix != ".pth":
            files[listed.as_posix()] = path
    package = entry.module.split(".")[0]
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for path in Path(folder).rglob("*"):
            files[f"{package}/{path.relative_to(folder).as_posix()}"] = path
    if spec and spec.origin and not spec.submodule_search_locations:
        files[Path(spec.origin).name] = Path(spec.origin)
    return {name: path for name, path in files.items() if path.is_file() and "__pycache__" not in path.parts}
