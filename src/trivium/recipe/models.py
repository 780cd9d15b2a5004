"""What a recipe may say, as one union of its stages. A class is a kind of stage, source or suite; docstrings of fields are help.

The classes live by step of the pipeline: `sources`, `data`, `training`, `synthesis`, `alignment`, `evaluation`, `deployment`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, get_origin

from pydantic import Field

from trivium.recipe import (
    alignment,
    data,
    deployment,
    evaluation,
    sources,
    suites,
    synthesis,
    training,
    verifiers,
)
from trivium.recipe.base import Name, StageBase, Strict
from trivium.recipe.kinds import added, kind_of, union
from trivium.recipe.suite import SuiteBase
from trivium.recipe.training import ImportStage, TrainingStage

# Other packages are looked up from here on, when all that they may build on is there.
SOURCE = union("trivium.sources", sources.SourceBase, *sources.OWN)
SUITE = union("trivium.suites", SuiteBase, *suites.OWN)
VERIFIER = union("trivium.verifiers", verifiers.VerifierBase, *verifiers.OWN)
suites.SUITES.update(added("trivium.suites", SuiteBase))
verifiers.VERIFIERS.update(added("trivium.verifiers", verifiers.VerifierBase))
data.DataStage.model_rebuild(_types_namespace={"Source": SOURCE})
evaluation.EvaluateStage.model_rebuild(_types_namespace={"Suite": SUITE})
synthesis.SynthesizeStage.model_rebuild(_types_namespace={"VerifierConfig": VERIFIER})

_OWN: list[type[StageBase]] = [
    model
    for module in (data, synthesis, training, alignment, evaluation, deployment)
    for model in vars(module).values()
    if isinstance(model, type) and issubclass(model, StageBase) and model.__module__ == module.__name__
    if get_origin(model.model_fields["kind"].annotation) is Literal
]
STAGES: dict[str, type[StageBase]] = {kind_of(model): model for model in _OWN}
STAGES |= added("trivium.objectives", TrainingStage, STAGES)
"""Kind -> its model, in the order of the pipeline, those of other packages last."""

if TYPE_CHECKING:
    Stage = StageBase
else:
    Stage = union("trivium.objectives", TrainingStage, *_OWN)

TRAINING: dict[str, type[TrainingStage]] = {
    kind: stage for kind, stage in STAGES.items() if issubclass(stage, TrainingStage)
}
"""The kinds of stages that train a model."""

CHECKPOINTS = frozenset(
    kind
    for kind, stage in STAGES.items()
    if stage in (ImportStage, deployment.PruneStage)
    or (issubclass(stage, TrainingStage) and not stage.scalar)
)
"""Kinds whose artifact is a model that training can start from."""


class Recipe(Strict):
    """One training pipeline: a name, a seed and a graph of stages that refer to each other by name."""

    name: Name
    seed: Annotated[int, Field(ge=0)] = 0
    """Everything random in the run is derived from this."""
    track: list[Literal["tensorboard", "wandb", "mlflow", "trackio"]] | None = None
    """Where curves are copied to while stages train; None: TensorBoard, if it is installed. `events.jsonl` always has them."""
    stages: Annotated[dict[Name, Stage], Field(min_length=1)]
