"""Step 5: what is measured, and the gates."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from trivium.recipe.base import Name, StageBase, Strict, how
from trivium.recipe.units import Count


class Suite(Strict):
    """One thing that is measured, on the held-out split of one data stage."""

    references: ClassVar[tuple[str, ...]] = ("data",)
    """As in StageBase: fields that hold the name of another stage."""
    kind: Literal["bits_per_byte", "response_loss", "reasoning", "preferences", "refusals", "drift"]
    data: Name
    items: Annotated[Count, Field(gt=0)] = 100
    """Held-out items to measure on, at most."""
    max_new_tokens: Annotated[int, Field(gt=0)] = 96
    """Length limit of a generated reply."""
    contaminated: Literal["refuse", "report"] = "refuse"
    """What to do with items that training documents share words with (a data stage with `on_overlap: flag`): refuse to
    measure, or measure, say how many there are, and let the gates on this suite's metrics fail."""


class Gate(Strict):
    """A bound that a metric must keep."""

    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _bounded(self) -> Gate:
        if self.min is None and self.max is None:
            raise ValueError("a gate needs `min` or `max`")
        return self


class EvaluateStage(StageBase):
    """Measures checkpoints on held-out items and holds the results against gates."""

    kind: Literal["evaluate"]
    references: ClassVar[tuple[str, ...]] = ("model", "baseline", "compare")
    model: Name
    """The checkpoint under test: the gates apply to it."""
    baseline: Name | None = None
    """The checkpoint that implicit rewards are measured against: what alignment started from."""
    compare: list[Name] = []
    """Checkpoints measured alongside, for the table."""
    suites: list[Suite]
    gates: dict[str, Gate] = {}
    """metric -> bound. The names are those in `trivium.recipe.evaluation.METRICS`."""
    device: Literal["auto", "cpu", "cuda"] = how("auto")


METRICS: dict[str, tuple[str, ...]] = {
    "bits_per_byte": ("bits_per_byte",),
    "response_loss": ("response_loss",),
    "reasoning": ("reasoning_exact_match",),
    "preferences": ("preference_accuracy", "beats_rejected"),
    "refusals": ("refusal_rate", "false_refusals", "coherent_replies"),
    "drift": ("reply_tokens", "unfinished", "repetition", "declined", "kl_per_token", "kl_per_reply"),
}
"""Suite kind -> the metrics it yields. Those of ALWAYS_MEASURED are measured in every evaluate stage."""
ALWAYS_MEASURED = ("file_bytes", "tokens_per_second")
