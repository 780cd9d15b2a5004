"""What every kind and every field of a recipe means: the docstrings of its models, found by name.

A word is a kind (`dpo`, `warc`, `redteam`), a field of one (`dpo.beta`, `data.dedup.fuzzy`), a field alone (`beta`: of every kind
that has it), or, where a recipe is at hand, a stage of it (`aligned.beta`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from trivium.errors import RecipeError
from trivium.recipe.lines import nearest
from trivium.recipe.schema import schema

Schema = Mapping[str, Any]
GROUPS = {
    "stages": "stage",
    "sources": "source of data",
    "suites": "suite",
    "verifier": "verifier",
    "reward": "verifier",
}
"""Field that holds the kinds -> what they are called."""
BOUNDS = {
    "exclusiveMinimum": "above",
    "minimum": "at least",
    "exclusiveMaximum": "below",
    "maximum": "at most",
}
INNERMOST = 4
"""Fields within fields are followed so far, where only the name of the last one is given."""


@dataclass(frozen=True)
class FieldHelp:
    """One field."""

    path: str
    """KIND.FIELD, and so on inwards."""
    takes: str
    """The values, in words."""
    default: Any
    """As JSON. None where there is none, and where the default is none."""
    required: bool
    about: str
    read_only_where: str
    """The values beside it with which it is read; empty: always."""
    remakes: bool
    """Whether another value makes the artifact anew; what only says how to compute does not."""
    fields: tuple[str, ...]
    """Names of the fields within."""


@dataclass(frozen=True)
class KindHelp:
    """One kind."""

    kind: str
    what: str
    """stage, source of data, suite, verifier."""
    about: str
    own: tuple[FieldHelp, ...]
    """The fields that say something about this kind."""
    shared: tuple[str, ...]
    """Names of the fields that all kinds of its sort have."""


class Manual:
    """The recipe's JSON Schema, asked by name."""

    def __init__(self) -> None:
        self.root: Schema = schema()
        self.definitions: Schema = self.root["$defs"]
        self.kinds: dict[str, list[tuple[str, Schema]]] = {}
        """Name -> what it is called and its definition: several where a source and a suite share a name."""
        self._collect("stages", self.root["properties"]["stages"])
        for definition in self.definitions.values():
            for name, field in definition.get("properties", {}).items():
                if name in GROUPS:
                    self._collect(name, field)

    def _collect(self, group: str, schema: Schema) -> None:
        for member in self._alternatives(schema):
            kind = member.get("properties", {}).get("kind", {}).get("const")
            if kind is not None and GROUPS[group] not in [what for what, _ in self.kinds.get(kind, ())]:
                self.kinds.setdefault(kind, []).append((GROUPS[group], member))

    def _alternatives(self, schema: Schema) -> Iterator[Schema]:
        """The mappings that may stand at a place, references followed."""
        if "$ref" in schema:
            yield self.definitions[schema["$ref"].rsplit("/", 1)[1]]
        for key in ("anyOf", "oneOf"):
            for part in schema.get(key, ()):
                yield from self._alternatives(part)
        for key in ("items", "additionalProperties"):
            if isinstance(schema.get(key), Mapping):
                yield from self._alternatives(schema[key])
        for part in schema.get("patternProperties", {}).values():
            yield from self._alternatives(part)
        if "properties" in schema:
            yield schema

    def kind(self, name: str) -> list[KindHelp]:
        """All that go by this name."""
        return [self._kind(name, what, definition) for what, definition in self.kinds[name]]

    def _kind(self, name: str, what: str, definition: Schema) -> KindHelp:
        siblings = [
            other
            for kind, group, other in self.all()
            if group == what
            and kind != name
            and ("lr" in other["properties"]) == ("lr" in definition["properties"])
        ]
        fields = definition["properties"]
        shared = [
            field for field in fields if siblings and all(field in other["properties"] for other in siblings)
        ]
        own = [field for field in fields if field not in shared and field != "kind"]
        return KindHelp(
            name,
            what,
            definition.get("description", ""),
            tuple(self._field(f"{name}.{field}", field, definition) for field in own),
            tuple(field for field in shared if field != "kind"),
        )

    def all(self) -> Iterator[tuple[str, str, Schema]]:
        """(kind, what it is called, definition)."""
        yield from ((kind, what, one) for kind, several in self.kinds.items() for what, one in several)

    def _field(self, path: str, name: str, owner: Schema) -> FieldHelp:
        field = owner["properties"][name]
        within = dict.fromkeys(key for part in self._alternatives(field) for key in part["properties"])
        return FieldHelp(
            path,
            self._takes(field),
            field.get("default"),
            name in owner.get("required", ()),
            field.get("description", ""),
            " or ".join(_case(case) for case in field.get("only", ())),
            field.get("identity", True),
            tuple(within),
        )

    def _takes(self, field: Schema) -> str:
        if "$ref" in field:
            definition = self.definitions[field["$ref"].rsplit("/", 1)[1]]
            kind = definition.get("properties", {}).get("kind", {}).get("const")
            return f"{{kind: {kind}, …}}" if kind else "a mapping"
        if "const" in field:
            return str(field["const"])
        if "enum" in field:
            return " | ".join(map(str, field["enum"]))
        if parts := field.get("anyOf") or field.get("oneOf"):
            words = dict.fromkeys(self._takes(part) for part in parts)
            if {"integer", "text"} <= set(words):
                words = {
                    "a count such as 300, 20K or 3M": None,
                    **{w: None for w in words if w not in ("integer", "text")},
                }
            return " | ".join(words)
        words_of = {"string": "text", "boolean": "true | false", "null": "nothing", "object": "a mapping"}
        kind = str(field.get("type", "anything"))
        if kind == "array":
            return f"a list of {self._takes(field['items'])}" if field.get("items") else "a list"
        bounds = ", ".join(f"{word} {field[key]}" for key, word in BOUNDS.items() if key in field)
        return f"{words_of.get(kind, kind)}{', ' if bounds else ''}{bounds}"

    def field(self, words: list[str]) -> list[FieldHelp]:
        """What the path KIND, FIELD, FIELD… leads to: several where a list holds several kinds. Empty if it leads nowhere."""
        owners, path = [definition for _, definition in self.kinds[words[0]]], words[0]
        for word in words[1:-1]:
            path = f"{path}.{word}"
            inner = []
            for owner in owners:
                if word in owner["properties"]:
                    inner += list(self._alternatives(owner["properties"][word]))
                elif owner["properties"].get("kind", {}).get("const") == word:
                    inner.append(owner)
            owners = inner
        found = [
            self._field(f"{path}.{words[-1]}", words[-1], owner)
            for owner in owners
            if words[-1] in owner["properties"]
        ]
        return [help_ for nth, help_ in enumerate(found) if help_ not in found[:nth]]

    def everywhere(self, name: str) -> list[FieldHelp]:
        """Every kind's field of that name; equal ones once, under the first kind."""
        found: dict[str, FieldHelp] = {}
        for kind, _, definition in self.all():
            for help_ in self._inside(kind, name, definition, INNERMOST):
                found.setdefault(f"{help_.about}{help_.takes}{help_.default}", help_)
        return list(found.values())

    def _inside(self, path: str, name: str, owner: Schema, deep: int) -> Iterator[FieldHelp]:
        if name in owner["properties"]:
            yield self._field(f"{path}.{name}", name, owner)
        for field, place in owner["properties"].items() if deep else ():
            for part in self._alternatives(place):
                if part["properties"].get("kind", {}).get("const") is None:
                    yield from self._inside(f"{path}.{field}", name, part, deep - 1)


@cache
def manual() -> Manual:
    return Manual()


def look_up(words: str, stages: Mapping[str, str] | None = None) -> list[KindHelp] | list[FieldHelp]:
    """What `words` (KIND, KIND.FIELD, STAGE.FIELD, FIELD) means. `stages`: name -> kind of a recipe's stages.

    RecipeError with the nearest names where it means nothing.
    """
    book = manual()
    parts = words.split(".")
    parts[0] = (stages or {}).get(parts[0], parts[0])
    if parts[0] in book.kinds:
        if len(parts) == 1:
            return book.kind(parts[0])
        if found := book.field(parts):
            return found
        fields = [field for _, definition in book.kinds[parts[0]] for field in definition["properties"]]
        raise RecipeError(
            f"`{parts[0]}` has no field `{'.'.join(parts[1:])}`",
            fix=f"{nearest(parts[1], fields)}trivium explain {parts[0]} lists its fields",
        )
    if found := book.everywhere(parts[-1]):
        return found
    fields = list(
        dict.fromkeys(field for _, _, definition in book.all() for field in definition["properties"])
    )
    known = [*book.kinds, *(stages or {}), *fields]
    raise RecipeError(
        f"`{words}` is no kind and no field of a recipe",
        fix=f"{nearest(parts[-1], known)}trivium explain lists the kinds",
    )


def _case(case: Mapping[str, Any]) -> str:
    words = []
    for field, values in case.items():
        said = values if isinstance(values, str) else " or ".join(map(str, values))
        words.append(f"{field} is {said}")
    return " and ".join(words)
