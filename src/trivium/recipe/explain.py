"""pydantic's errors said again as lessons: what is wrong, on which line, and what to write instead."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from trivium.errors import RecipeError
from trivium.recipe.alignment import PreferenceStage
from trivium.recipe.lines import Lines, Path, dotted, listed, nearest
from trivium.recipe.names import meant
from trivium.recipe.shape import class_at, kinds_at, value_at

_REFERENCE = frozenset({"reference", "reference_model", "ref_model", "ref"})
_LISTS = {"list_type": "a list", "dict_type": "a mapping", "model_type": "a mapping", "string_type": "text"}


def explain(error: ValidationError, raw: dict[str, Any], lines: Lines) -> list[RecipeError]:
    """One RecipeError for each of pydantic's, in the order of the recipe."""
    return [_explain(dict(detail), raw, lines) for detail in error.errors(include_url=False)]


def _place(location: tuple[str | int, ...], raw: Any) -> Path:
    """pydantic's location without tags of unions: ("stages", "base", "pretrain", "lr") loses "pretrain"."""
    path: Path = ()
    tagged: Path | None = None
    for part in location:
        here = value_at(raw, path)
        if part == "[key]":
            continue
        if isinstance(here, dict) and here.get("kind") == part and tagged != path:
            tagged = path
            continue
        path = (*path, part)
    return path


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
    elif detail["type"] in ("model_attributes_type", "dataclass_type"):
        said = "it must be a mapping of fields"
    elif detail["type"] == "literal_error":
        allowed = str(detail["ctx"]["expected"]).replace("'", "").replace(" or ", ", ").split(", ")
        return (
            f"{shown}, which is none of: {listed(allowed)}",
            f"{nearest(value, allowed)}{_help(field, raw)}".strip() or (f"write one of: {listed(allowed)}"),
        )
    return f"{shown}: {said}", _help(field, raw) or "write a value of the kind that the message names"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    return "empty" if value is None else repr(value)
