"""Which stages a stage refers to, in which field, and what kind they must be."""

from __future__ import annotations

from typing import Any

from trivium.recipe.lines import Path
from trivium.recipe.models import EvaluateStage, StageBase

CHECKPOINTS = frozenset({"pretrain", "sft", "dpo", "orpo", "ppo"})
"""Kinds whose artifact is a model that training can start from."""

_MODELS = CHECKPOINTS | {"quantize"}
_WANTED: dict[str, frozenset[str]] = {
    "data": frozenset({"data"}),
    "decontaminate": frozenset({"data"}),
    "tokenizer": frozenset({"tokenizer"}),
    "init": CHECKPOINTS,
    "reward_model": frozenset({"reward"}),
    "requires": frozenset({"evaluate"}),
    "model": _MODELS,
    "baseline": _MODELS,
    "compare": _MODELS,
}


def references(stage: StageBase) -> list[tuple[Path, str]]:
    """(place within the stage, name of the stage referred to), in the order of fields; suites included."""
    found: list[tuple[Path, str]] = []
    for field in stage.references:
        value: Any = getattr(stage, field)
        if isinstance(value, str):
            found.append(((field,), value))
        elif isinstance(value, list):
            found.extend(((field, index), name) for index, name in enumerate(value))
    if isinstance(stage, EvaluateStage):
        found.extend((("suites", index, "data"), suite.data) for index, suite in enumerate(stage.suites))
    return found


def wanted(kind: str, place: Path) -> frozenset[str]:
    """The kinds that the stage referred to at `place` of a stage of `kind` may have."""
    field = next(part for part in reversed(place) if isinstance(part, str))
    return CHECKPOINTS if (kind, field) == ("quantize", "model") else _WANTED[field]
