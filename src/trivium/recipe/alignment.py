"""Step 4: alignment."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from trivium.recipe.base import Name
from trivium.recipe.training import Aligned


class PreferenceStage(Aligned):
    """Fields of the alignment phases."""

    allow_base: bool = False
    """Align straight on a pre-trained base, without supervised fine-tuning in between."""


class DpoStage(PreferenceStage):
    """Direct preference optimisation against a frozen reference (its `init`), Rafailov et al. 2023."""

    kind: Literal["dpo"]
    beta: Annotated[float, Field(gt=0)] = 0.1
    """Strength of the pull towards the reference: larger stays closer."""
    nll: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the chosen reply's mean negative log-likelihood beside the DPO loss (Pang et al. 2024; 0 is plain DPO)."""


class OrpoStage(PreferenceStage):
    """Odds-ratio preference optimisation, Hong et al. 2024: no reference, and a base checkpoint will do."""

    kind: Literal["orpo"]
    allow_base: bool = True
    beta: Annotated[float, Field(gt=0)] = 0.1
    """Weight of the odds-ratio term beside the likelihood of the chosen reply (lambda in the paper)."""


class PpoStage(PreferenceStage):
    """Proximal policy optimisation against a reward model, Schulman et al. 2017 (checked, not built yet)."""

    kind: Literal["ppo"]
    available: ClassVar[bool] = False
    references: ClassVar[tuple[str, ...]] = ("init", "data", "tokenizer", "reward_model")
    reward_model: Name | None = None


class RewardStage(PreferenceStage):
    """A reward model by Bradley-Terry on preference pairs (checked, not built yet)."""

    kind: Literal["reward"]
    available: ClassVar[bool] = False
