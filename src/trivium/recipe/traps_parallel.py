"""Traps about ranks: layouts that do not divide the work, and phases that cannot be cut that way."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from trivium.errors import RecipeError
from trivium.recipe.alignment import OnlineStage, RewardStage
from trivium.recipe.look import Look
from trivium.recipe.parallel import AUTO, Parallel
from trivium.recipe.training import PretrainStage, SftStage, TrainingStage

Found = Iterator[RecipeError]


def _laid_out(look: Look) -> Iterator[tuple[str, TrainingStage, Parallel]]:
    for name, stage in look.each(TrainingStage):
        if isinstance(stage.parallel, Parallel):
            yield name, stage, stage.parallel


def batch_does_not_divide_among_ranks(look: Look) -> Found:
    for name, stage, parallel in _laid_out(look):
        ranks = parallel.data * parallel.shard
        if ranks > 1 and (stage.batch % ranks or (stage.batch // ranks) % (stage.micro_batch or 1)):
            micro = f" in micro-batches of {stage.micro_batch}" if stage.micro_batch else ""
            yield look.error(
                f"a batch of {stage.batch} rows{micro} cannot be shared evenly by {ranks} ranks (data x shard)",
                name,
                "parallel",
                fix=f"make `batch` a multiple of {ranks * (stage.micro_batch or 1)}",
            )


def heads_do_not_divide_among_ranks(look: Look) -> Found:
    for name, stage, parallel in _laid_out(look):
        base = (name, stage) if isinstance(stage, PretrainStage) else look.base(getattr(stage, "init", None))
        if base is None:
            continue
        shape = base[1].model
        for what, count in (("heads", shape.heads), ("key/value heads", shape.kv_heads or shape.heads)):
            if count % parallel.tensor:
                yield look.error(
                    f"`tensor: {parallel.tensor}` does not divide the model's {count} {what}",
                    name,
                    "parallel",
                    "tensor",
                    fix=f"choose a divisor of {count}",
                )
                break
        if parallel.pipeline > shape.layers:
            yield look.error(
                f"`pipeline: {parallel.pipeline}` is more stages than the model's {shape.layers} layers",
                name,
                "parallel",
                "pipeline",
                fix=f"write at most {shape.layers}",
            )


def row_does_not_divide_among_ranks(look: Look) -> Found:
    for name, stage, parallel in _laid_out(look):
        context = look.context(stage)
        if context is not None and context % parallel.context:
            yield look.error(
                f"`context: {parallel.context}` does not divide rows of {context} tokens",
                name,
                "parallel",
                "context",
                fix=f"choose a divisor of {context}",
            )


def phase_cannot_be_cut(look: Look) -> Found:
    for name, stage, parallel in _laid_out(look):
        if isinstance(stage, PretrainStage | SftStage):
            continue
        for axis in ("context", "pipeline"):
            if getattr(parallel, axis) > 1:
                yield look.error(
                    f"`{axis}` ranks are for pretrain and sft: the loss of `{stage.kind}` compares whole replies",
                    name,
                    "parallel",
                    axis,
                    fix="use `data`, `shard` or `tensor` here",
                )
        for axis in ("shard", "tensor") if isinstance(stage, OnlineStage | RewardStage) else ():
            if getattr(parallel, axis) > 1:
                yield look.error(
                    f"`{axis}` ranks are not for `{stage.kind}`: each rank needs the whole model to reply or to score",
                    name,
                    "parallel",
                    axis,
                    fix="use `data` here",
                )


def z_loss_over_a_pipeline(look: Look) -> Found:
    for name, stage, parallel in _laid_out(look):
        if parallel.pipeline > 1 and isinstance(stage, PretrainStage | SftStage) and stage.z_loss:
            yield look.error(
                "`z_loss` needs the softmax's denominators, which a pipeline's last stage does not hand over",
                name,
                "z_loss",
                fix="leave `z_loss` out, or share the work along `data`, `shard` or `tensor` instead of `pipeline`",
            )


def experts_do_not_divide_among_ranks(look: Look) -> Found:
    for name, stage, parallel in _laid_out(look):
        if parallel.expert == 1:
            continue
        base = (name, stage) if isinstance(stage, PretrainStage) else look.base(getattr(stage, "init", None))
        moe = base[1].model.moe if base else None
        counted = [("`data` ranks", parallel.data)] + ([("experts", moe.experts)] if moe else [])
        for what, count in counted:
            if count % parallel.expert:
                yield look.error(
                    f"`expert: {parallel.expert}` does not divide the {count} {what}",
                    name,
                    "parallel",
                    "expert",
                    fix=f"choose a divisor of {count}",
                )
        if base and moe is None:
            yield look.error(
                f"`expert: {parallel.expert}` is for a mixture of experts, which this model is not",
                name,
                "parallel",
                "expert",
                fix="leave `expert` out, or give the model a `moe:` block",
            )


def experts_shared_in_another_layout(look: Look) -> Found:
    for name, stage, parallel in _laid_out(look):
        if parallel.expert == 1:
            continue
        axes = [axis for axis in ("shard", "tensor", "pipeline") if getattr(parallel, axis) > 1]
        for other in axes + (["adapter"] if stage.adapter else []):
            yield look.error(
                f"`expert` goes with `data` and `context` only, not with `{other}`",
                name,
                "parallel",
                "expert",
                fix="use `data` ranks, or leave `expert` out: `shard` splits the experts' weights too",
            )


def ranks_do_not_divide_among_nodes(look: Look) -> Found:
    for name, stage, parallel in _laid_out(look):
        if parallel.ranks % stage.launch.nodes:
            yield look.error(
                f"{parallel.ranks} ranks do not spread evenly over {stage.launch.nodes} nodes",
                name,
                "launch",
                "nodes",
                fix=f"choose a divisor of {parallel.ranks}",
            )


def devices_of_auto(look: Look) -> Found:
    for name, stage in look.each(TrainingStage):
        launch = stage.launch
        if stage.parallel != AUTO and launch.on is not None:
            yield look.error(
                "`on` is for `parallel: auto`, and this stage names its layout",
                name,
                "launch",
                "on",
                fix="leave `on` out, or write `parallel: auto`",
            )
        if stage.parallel == AUTO and launch.on is None and launch.kind != "local":
            yield look.error(
                f"`parallel: auto` with `launch: {{kind: {launch.kind}}}` does not say what devices there are",
                name,
                "launch",
                fix="name them: `on: 64xH100`, or a cluster file",
            )


TRAPS: tuple[Callable[[Look], Found], ...] = (
    batch_does_not_divide_among_ranks,
    heads_do_not_divide_among_ranks,
    row_does_not_divide_among_ranks,
    phase_cannot_be_cut,
    z_loss_over_a_pipeline,
    experts_do_not_divide_among_ranks,
    experts_shared_in_another_layout,
    ranks_do_not_divide_among_nodes,
    devices_of_auto,
)
