"""Step 5: what is measured, and the gates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from trivium.recipe.base import Name, StageBase, Strict, how

if TYPE_CHECKING:
    from trivium.recipe.suite import SuiteBase as Suite


class Gate(Strict):
    """A bound that a metric must keep with its whole interval, what could not be decided counted as the worst."""

    min: float | None = None
    max: float | None = None
    max_abs: float | None = Field(None, ge=0)
    """A bound on the distance from 0, for measures of bias."""
    no_worse_than_baseline: float | None = Field(None, ge=0)
    """By how much it may be worse than the baseline's on the same items."""

    @model_validator(mode="after")
    def _bounded(self) -> Gate:
        if all(bound is None for bound in (self.min, self.max, self.max_abs, self.no_worse_than_baseline)):
            raise ValueError("a gate needs `min`, `max`, `max_abs` or `no_worse_than_baseline`")
        if self.max_abs is not None and (self.min is not None or self.max is not None):
            raise ValueError("`max_abs` stands alone: it says both `min` and `max`")
        if self.no_worse_than_baseline is not None and self.model_fields_set != {"no_worse_than_baseline"}:
            raise ValueError(
                "`no_worse_than_baseline` stands alone: it is about a difference, the others about a value"
            )
        return self


class EvaluateStage(StageBase):
    """Measures checkpoints on held-out items and holds the results against gates."""

    kind: Literal["evaluate"]
    references: ClassVar[tuple[str, ...]] = ("model", "baseline", "compare")
    model: Name
    """The checkpoint under test: the gates apply to it. An `export` stage of one file is one, too."""
    baseline: Name | None = None
    """The checkpoint to compare with: what alignment started from, or what is in production. It is asked the same items, and
    implicit rewards, win rates and `no_worse_than_baseline` are measured against it."""
    compare: list[Name] = []
    """Checkpoints measured alongside, for the table."""
    suites: list[Suite]
    gates: dict[str, Gate] = {}
    """metric -> bound. The names are those of the suites in `trivium.recipe.suites`."""
    device: Literal["auto", "cpu", "cuda"] = how("auto")


def bound_of(gate: Mapping[str, Any]) -> str:
    """The bound of a gate, as the recipe or its result has it, in signs: `≥ 0.6`."""
    signs = {
        "min": "≥",
        "max": "≤",
        "max_abs": "within ±",
        "no_worse_than_baseline": "no worse than the baseline by",
    }
    return " and ".join(f"{sign} {gate[key]:g}" for key, sign in signs.items() if gate.get(key) is not None)


def value_of(gate: Mapping[str, Any]) -> str:
    """What a gate found: `0.82 [0.69, 0.9]`; a difference where it is about one."""
    if gate["value"] is None:
        return "not measured"
    ends = [f"{gate[end]:.3g}" if gate[end] is not None else "?" for end in ("low", "high")]
    return f"{gate['value']:.3g}" + (f" [{ends[0]}, {ends[1]}]" if ends[0] != ends[1] else "")
