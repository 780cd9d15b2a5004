"""What a recipe may say, as one union of its stages. A class is a kind of stage, source or suite; docstrings of fields are help.

The classes live by step of the pipeline: `sources`, `data`, `training`, `synthesis`, `alignment`, `evaluation`, `deployment`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from trivium.recipe.alignment import (
    DistillStage,
    DpoStage,
    GrpoStage,
    KtoStage,
    OrpoStage,
    PpoStage,
    RewardStage,
)
from trivium.recipe.base import Name, Strict
from trivium.recipe.data import DataStage, TokenizerStage
from trivium.recipe.deployment import QuantizeStage, ReleaseStage
from trivium.recipe.evaluation import EvaluateStage
from trivium.recipe.synthesis import SynthesizeStage
from trivium.recipe.training import ImportStage, PretrainStage, SftStage

Stage = Annotated[
    DataStage
    | SynthesizeStage
    | TokenizerStage
    | ImportStage
    | PretrainStage
    | SftStage
    | DpoStage
    | OrpoStage
    | KtoStage
    | RewardStage
    | PpoStage
    | GrpoStage
    | DistillStage
    | EvaluateStage
    | QuantizeStage
    | ReleaseStage,
    Field(discriminator="kind"),
]


class Recipe(Strict):
    """One training pipeline: a name, a seed and a graph of stages that refer to each other by name."""

    name: Name
    seed: Annotated[int, Field(ge=0)] = 0
    """Everything random in the run is derived from this."""
    track: list[Literal["tensorboard", "wandb", "mlflow"]] | None = None
    """Where curves are copied to while stages train; None: TensorBoard, if it is installed. `events.jsonl` always has them."""
    stages: Annotated[dict[Name, Stage], Field(min_length=1)]
