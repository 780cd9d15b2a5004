"""How a training stage lies on a cluster: in the layout that its recipe names, or in the one that the search finds.

`parallel: auto`, `trivium plan --on` and `trivium plan --dry-run` ask here, so that what is planned is what is run.
"""

from __future__ import annotations

from trivium.errors import RecipeError
from trivium.model.config import ModelConfig
from trivium.plan import flops, memory, search
from trivium.plan.cost import model_of
from trivium.plan.hardware import Cluster
from trivium.recipe.alignment import DistillStage, OnlineStage, PpoStage, RewardStage
from trivium.recipe.look import Look
from trivium.recipe.parallel import AUTO
from trivium.recipe.training import PretrainStage, SftStage, TrainingStage


def lay_out(
    look: Look, stage: TrainingStage, config: ModelConfig, context: int, cluster: Cluster
) -> search.Found:
    """The recipe's own layout where it names one with several ranks, else the best for a model of `config` on rows of `context`
    tokens. RecipeError where none is legal, or fits."""
    parallel, asked = stage.parallel, _asked(look, stage, config, context)
    if parallel == AUTO or parallel.ranks == 1:
        return search.search(asked, cluster)
    if parallel.ranks > cluster.count:
        raise RecipeError(
            f"the layout {parallel} has {parallel.ranks} ranks, and the cluster {cluster.count} devices",
            fix="write `parallel: auto`, or a layout of as many ranks",
        )
    return search.fixed(asked, Cluster(cluster.accelerator, parallel.ranks), parallel)


def as_found(stage: TrainingStage, found: search.Found) -> TrainingStage:
    """`stage` as it runs in the layout that was found for it."""
    shape = found.winner.shape
    recompute = "blocks" if shape.recompute else "none"
    return stage.model_copy(
        update={"parallel": shape.parallel, "micro_batch": shape.micro, "recompute": recompute}
    )


def _asked(look: Look, stage: TrainingStage, config: ModelConfig, context: int) -> search.Asked:
    """What the search is told of a stage."""
    frozen = 0.0
    if isinstance(stage, OnlineStage):
        scorer = model_of(look, stage.reward_model) if stage.reward_model else None
        others = [*([] if stage.adapter else [config]), *([scorer] if scorer else [])]
        frozen += sum(memory.FLOAT * flops.parameters(one) for one in others)
    if isinstance(stage, PpoStage) and not stage.share_trunk:  # the critic: weights, gradients, two moments
        frozen += 4 * memory.FLOAT * flops.parameters(config)
    if isinstance(stage, DistillStage) and (teacher := model_of(look, stage.teacher)):
        frozen += memory.FLOAT * flops.parameters(teacher)
    trained, int8 = flops.adapted(config, stage.adapter) if stage.adapter else (None, 0)
    said = "recompute" in stage.model_fields_set
    return search.Asked(
        config,
        stage.batch,
        context,
        micro=stage.micro_batch,
        recompute=stage.recompute == "blocks" if said else None,
        axes=search.AXES - _closed(stage),
        forwards=stage.forwards,
        bf16=stage.precision != "float32",
        fp8=stage.precision == "float8",
        muon=stage.optimizer == "muon",
        frozen=frozen,
        z_loss=getattr(stage, "z_loss", 0.0) > 0,
        rows_per_item=stage.rows_per_item(),
        trained=trained,
        int8=int8 if stage.adapter and stage.adapter.quantize == "int8" else 0,
    )


def _closed(stage: TrainingStage) -> set[str]:
    """The axes that `recipe.traps_parallel` and `traps_training` refuse to the stage."""
    closed: set[str] = set()
    if not isinstance(stage, PretrainStage | SftStage):
        closed |= {"context", "pipeline"}
    if isinstance(stage, OnlineStage | RewardStage):
        closed |= {"shard", "tensor"}
    if stage.optimizer == "muon":
        closed |= {"shard", "tensor"}
    if getattr(stage, "z_loss", 0.0):
        closed |= {"pipeline"}
    if stage.adapter is not None:
        closed |= {"tensor", "pipeline", "expert"}
    return closed
