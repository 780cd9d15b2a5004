"""Step 6: what leaves the house."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import model_validator

from trivium.recipe.base import Name, StageBase
from trivium.recipe.network import Generation


class QuantizeStage(StageBase):
    """Shrinks a checkpoint's weights."""

    kind: Literal["quantize"]
    references: ClassVar[tuple[str, ...]] = ("model",)
    model: Name
    scheme: Literal["int8", "bf16"] = "int8"
    """int8: symmetric, weight-only, one scale per output channel (the compressed-tensors layout); not for a mixture of
    experts or a GPT-2, which transformers would not read. bf16: every weight rounded to bfloat16, half the size of float32."""
    generation: Generation | None = None
    """How replies are drawn where nobody says otherwise; None: as those of `model`."""


class ReleaseStage(StageBase):
    """Puts model, card, lineage and report in one folder, if the gates of `requires` passed."""

    kind: Literal["release"]
    references: ClassVar[tuple[str, ...]] = ("model", "requires")
    model: Name
    requires: list[Name] = []
    """Evaluate stages whose gates must have passed; at least one of them must have tested `model` itself."""

    @model_validator(mode="before")
    @classmethod
    def _one_or_many(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("requires"), str):
            return {**values, "requires": [values["requires"]]}
        return values
