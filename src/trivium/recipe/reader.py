"""YAML text -> plain values, with the line of every key kept.

Read with PyYAML's safe parser, by the rules of YAML 1.2: `2e-5` is a number, `off` and `no` are words, dates
stay text. Refused, each with its line: duplicate keys, keys that are no words, tags, aliases that contain
themselves or multiply beyond reason.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from trivium.errors import RecipeError
from trivium.recipe.lines import Lines, Path

LARGEST_FILE = 1_000_000
"""Characters of a recipe."""
LARGEST_TREE = 50_000
"""Values of a recipe after its aliases are written out."""

_TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """SafeLoader with the words and numbers of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, Any] = {}


_Loader.add_implicit_resolver(
    f"{_TAG}bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(f"{_TAG}null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver(f"{_TAG}merge", re.compile(r"^<<$"), ["<"])
_Loader.add_implicit_resolver(f"{_TAG}int", re.compile(r"^[-+]?(?:0|[1-9][0-9_]*)$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    f"{_TAG}float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?$"),
    list("-+.0123456789"),
)


def read(text: str, file: str) -> tuple[dict[str, Any], Lines]:
    """The recipe as plain values, and its lines. RecipeError for anything but one YAML mapping."""
    lines = Lines(file)
    if len(text) > LARGEST_FILE:
        raise RecipeError(
            f"the recipe has {len(text):,} characters, more than {LARGEST_FILE:,}",
            where=file,
            fix="a recipe is a page of settings; put data into files and name them with a `jsonl` source",
        )
    node = _compose(text, file)
    if node is None:
        raise RecipeError(
            "the recipe is empty", where=file, fix="write a commented starter with `trivium init NAME`"
        )
    if not isinstance(node, yaml.MappingNode):
        raise RecipeError(
            "a recipe is a mapping, and this is a "
            + ("list" if isinstance(node, yaml.SequenceNode) else "text"),
            where=f"{file}:{_line(node)}",
            fix="write `name: ...` and `stages: ...` at the left margin; `trivium init NAME` shows the shape",
        )
    return _Builder(lines).build(node, ()), lines


def scalar(text: str) -> Any:
    """The value of `text` written as YAML, for a command line. RecipeError if it is none."""
    node = _compose(text, f"-o ...={text}")
    return None if node is None else _Builder(Lines(f"-o ...={text}")).build(node, ())


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _compose(text: str, file: str) -> yaml.Node | None:
    loader = None
    try:
        loader = _Loader(text)
        return loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = f"this is not YAML: {error.problem or error.context}"
        where = f"{file}:{mark.line + 1}, column {mark.column + 1}" if mark else file
    except yaml.YAMLError as error:
        what, where = f"this is not YAML: {str(error).splitlines()[0]}", file
    except RecursionError:
        what, where = "the recipe is nested too deeply", file
    finally:
        if loader is not None:
            loader.dispose()
    raise RecipeError(
        what,
        where=where,
        fix="check the indentation, brackets, quotes and colons on that line and the one above",
    )


class _Builder:
    """Builds the values of a node tree, noting lines and keeping count."""

    def __init__(self, lines: Lines) -> None:
        self.lines = lines
        self.count = 0
        self.open: set[int] = set()
        self.scalars = yaml.constructor.SafeConstructor()

    def build(self, node: yaml.Node, path: Path) -> Any:
        self.count += 1
        if self.count > LARGEST_TREE:
            raise self._error(
                f"the aliases (`*name`) of this recipe multiply into more than {LARGEST_TREE:,} values",
                node,
                "write the values out, or remove the aliases that repeat each other",
            )
        if id(node) in self.open:
            raise self._error("an alias (`*name`) contains itself", node, "write the value out instead")
        self.lines.lines.setdefault(path, _line(node))
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        self.open.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]
            return self._mapping(node, path)
        finally:
            self.open.discard(id(node))

    def _mapping(self, node: yaml.Node, path: Path) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == f"{_TAG}merge":
                merged |= self._merge(value_node, path)
                continue
            key = self._key(key_node)
            if key in own:
                raise self._error(
                    f"the key `{key}` stands twice in the same mapping",
                    key_node,
                    f"keep one of them (the first is on line {self.lines.lines[(*path, key)]})",
                )
            self.lines.lines[(*path, key)] = _line(key_node)
            own[key] = self.build(value_node, (*path, key))
        return merged | own

    def _merge(self, node: yaml.Node, path: Path) -> dict[str, Any]:
        values = node.value if isinstance(node, yaml.SequenceNode) else [node]
        merged: dict[str, Any] = {}
        for value in values:
            if not isinstance(value, yaml.MappingNode):
                raise self._error("`<<` merges mappings, and this is none", value, "write `<<: *name`")
            merged = self.build(value, path) | merged
        return merged

    def _key(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode) or node.tag != f"{_TAG}str":
            shown = node.value if isinstance(node, yaml.ScalarNode) else "a list or mapping"
            raise self._error(
                f"a key must be a word, and this one is {shown}", node, "put it in quotes or rename it"
            )
        return str(node.value)

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        if node.tag not in {f"{_TAG}{name}" for name in ("str", "int", "float", "bool", "null")}:
            raise self._error(
                f"the tag {node.tag} is not used in recipes", node, "remove it and write a plain value"
            )
        try:
            return self.scalars.construct_object(node)  # type: ignore[no-untyped-call,unused-ignore]
        except (ValueError, yaml.YAMLError) as error:
            raise self._error(
                f"{node.value!r} cannot be read: {error}", node, "write a plain value"
            ) from error

    def _error(self, what: str, node: yaml.Node, fix: str) -> RecipeError:
        return RecipeError(what, where=f"{self.lines.file}:{_line(node)}", fix=fix)
