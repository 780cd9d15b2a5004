"""pydantic's errors said again as lessons: what is wrong, on which line, and what to write instead."""

from __future__ import annotations

import re
from typing import Any

from pydantic import ValidationError

from trivium.errors import RecipeError
from trivium.recipe.alignment import PreferenceStage
from trivium.recipe.lines import Lines, Path, dotted, listed, nearest
from trivium.recipe.names import meant
from trivium.recipe.shape import class_at, kinds_at, value_at

_REFERENCE = frozenset({"reference", "reference_model", "ref_model", "ref"})
_NUMBERS = dict.fromkeys(("int_parsing", "int_type"), "whole number") | dict.fromkeys(
    ("float_parsing", "float_type"), "number"
)
_SIZES = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_LISTS = {"list_type": "a list", "dict_type": "a mapping", "model_type": "a mapping", "string_type": "text"}


def explain(error: ValidationError, raw: dict[str, Any], lines: Lines) -> list[RecipeError]:
    """One RecipeError for each of pydantic's, in the order of the recipe."""
    details = [dict(detail) for detail in error.errors(include_url=False)]
    return [_explain(detail, raw, lines) for detail in details if not _of_another_form(detail, raw)]


def _of_another_form(detail: dict[str, Any], raw: Any) -> bool:
    """Whether it says only that a mapping is not the word that could stand in its place (`parallel: auto`), or the reverse."""
    mapping = isinstance(value_at(raw, _place(detail["loc"], raw)), dict)
    literal = detail["type"] == "literal_error"
    return literal if mapping else detail["type"] == "model_type" and _tagged(detail["loc"], raw)


def _tagged(location: tuple[str | int, ...], raw: Any) -> bool:
    """Whether the last part of `location` names an alternative of a union."""
    return len(_place(location, raw)) == len(_place(location[:-1], raw))


def _place(location: tuple[str | int, ...], raw: Any) -> Path:
    """pydantic's location without tags of unions: ("stages", "base", "pretrain", "lr") loses "pretrain", ("parallel", "Parallel",
    "shard") loses "Parallel"."""
    path: Path = ()
    tagged: Path | None = None
    for part in location:
        here = value_at(raw, path)
        if part == "[key]":
            continue
        if isinstance(here, dict) and here.get("kind") == part and tagged != path:
            tagged = path
            continue
        if isinstance(part, str) and here is not None and not _may_be(part, path, here, raw):
            continue
        path = (*path, part)
    return path


def _may_be(part: str, path: Path, here: Any, raw: Any) -> bool:
    """Whether the value `here` at `path` has or could have a member `part`; only tags of unions could not."""
    if not isinstance(here, dict):
        return False
    owner = class_at(raw, path)
    return part in here or owner is None or part in owner.model_fields


def _explain(detail: dict[str, Any], raw: dict[str, Any], lines: Lines) -> RecipeError:
    path = _place(detail["loc"], raw)
    match detail["type"]:
        case "extra_forbidden":
            what, fix = _unknown_key(path, raw)
        case "union_tag_invalid" | "union_tag_not_found":
            what, fix, path = _kind(path, raw)
        case "missing":
            what = f"`{path[-1]}` is missing"
            fix = _help(path, raw) or f"write `{path[-1]}: ...`"
        case "string_pattern_mismatch" if "[key]" in detail["loc"] or class_at(raw, path[:-1]) is not None:
            what = f"`{path[-1] if '[key]' in detail['loc'] else detail['input']}` is no valid name"
            fix = "write small letters, digits, `-` and `_`, a letter first, such as `base_2`"
        case "too_short":
            what, fix = (
                f"`{dotted(path)}` is empty",
                "write at least one; `trivium init NAME` shows the shape",
            )
        case _:
            what, fix = _wrong_value(detail, path, raw)
    return RecipeError(what, where=lines.where(path), fix=fix)


def _help(path: Path, raw: Any) -> str:
    """The help text of the field at `path`, empty if it has none."""
    owner = class_at(raw, path[:-1])
    field = owner.model_fields.get(str(path[-1])) if owner else None
    return " ".join(field.description.split()) if field and field.description else ""


def _unknown_key(path: Path, raw: Any) -> tuple[str, str]:
    owner, key = class_at(raw, path[:-1]), str(path[-1])
    kind = (value_at(raw, path[:-1]) or {}).get("kind", "")
    if owner is not None and issubclass(owner, PreferenceStage):
        if key == "reward_model":
            return (
                f"`reward_model` was given to {kind}, which has none",
                f"remove it: {kind} learns from the {' or '.join(owner.formats)} in `data` directly, without a reward model;"
                " the kinds that train against a reward model are `ppo` and `grpo`",
            )
        if key in _REFERENCE and owner.frozen_reference:
            return (
                f"`{key}` was given to {kind}",
                f"remove it: the frozen reference of {kind} is always its `init` checkpoint",
            )
        if key in _REFERENCE:
            return f"`{key}` was given to {kind}", f"remove it: {kind} works without a reference model"
    valid = list(owner.model_fields) if owner else []
    said = f" of kind {kind}" if kind else ""
    thing = {2: "stage"}.get(len(path) - 1, "mapping") if path[0] == "stages" else "recipe"
    return f"unknown key `{key}` in this {thing}{said}", f"{meant(key, valid)}valid keys: {listed(valid)}"


def _kind(path: Path, raw: Any) -> tuple[str, str, Path]:
    kinds = kinds_at(raw, path)
    thing = next(part for part in reversed(path) if isinstance(part, str)).removesuffix("s")
    if len(path) == 2:  # `stages.NAME`
        thing = "stage"
    kind = value_at(raw, (*path, "kind"))
    if kind is None:
        given = value_at(raw, path)
        hint = "write `type` as `kind`; " if isinstance(given, dict) and "type" in given else ""
        return f"this {thing} has no `kind`", f"{hint}write one of: {listed(kinds)}", path
    return (
        f"unknown kind of {thing}: `{kind}`",
        f"{nearest(kind, kinds)}valid kinds: {listed(kinds)}",
        (*path, "kind"),
    )


def _wrong_value(detail: dict[str, Any], path: Path, raw: Any) -> tuple[str, str]:
    said = str(detail["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    value = detail["input"]
    if len(path) > 1 and isinstance(path[-1], int):  # an item of a list: `betas[1]`
        field, name = path[:-1], f"{path[-2]}[{path[-1]}]"
    else:
        field, name = path, str(path[-1]) if path else ""
    shown = f"`{name}` is {_shown(value)}" if path else f"the recipe is {_shown(value)}"
    if detail["type"] in _LISTS:
        said = f"it must be {_LISTS[detail['type']]}"
    elif detail["type"] in _NUMBERS:
        plain = _written_out(value, detail["type"].startswith("int"))
        return (
            f"{shown}: write a {_NUMBERS[detail['type']]} without a unit",
            f"{plain}{_help(field, raw)}".strip(),
        )
    elif detail["type"] in ("model_attributes_type", "dataclass_type"):
        said = "it must be a mapping of fields"
    elif detail["type"] == "literal_error":
        allowed = str(detail["ctx"]["expected"]).replace("'", "").replace(" or ", ", ").split(", ")
        if _tagged(detail["loc"], raw):
            allowed.append("a mapping of fields")
        return (
            f"{shown}, which is none of: {listed(allowed)}",
            f"{nearest(value, allowed)}{_help(field, raw)}".strip() or (f"write one of: {listed(allowed)}"),
        )
    return f"{shown}: {said}", _help(field, raw) or "write a value of the kind that the message names"


def _written_out(value: Any, whole: bool) -> str:
    """What a number with a unit may mean where none can be written: `4K` -> 4000 or 4096, `5%` -> 0.05. Empty if nothing does."""
    match = re.fullmatch(r"([-+]?\d+(?:\.\d+)?)\s*([KkMBT%])", str(value).strip())
    if match is None or whole == (match[2] == "%"):
        return ""
    number, unit = float(match[1]), match[2].upper()
    if unit == "%":
        return f"write {number / 100:g}. "
    binary = f" or {number * 1024:.0f}" if unit == "K" else ""
    return f"write {number * _SIZES[unit]:.0f}{binary}. " if whole else ""


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    return "empty" if value is None else repr(value)
