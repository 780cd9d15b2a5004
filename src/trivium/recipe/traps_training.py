"""Traps about numbers: shapes that cannot be built, batches that cannot be split, missing lengths."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from trivium.errors import RecipeError
from trivium.recipe.alignment import RewardStage
from trivium.recipe.look import Look
from trivium.recipe.parallel import Parallel
from trivium.recipe.training import PretrainStage, TrainingStage

Found = Iterator[RecipeError]
LARGEST_STEP = 2**28
"""Tokens of an optimizer step: no published run comes near it (the largest has 64M)."""
MOST_TOKENS = 10**15
"""Tokens of a run: the largest published ones read 36T, and all public text is a few hundred T."""


def divisors(number: int) -> list[int]:
    """All of them, in order."""
    small = [k for k in range(1, math.isqrt(number) + 1) if number % k == 0]
    return small + [number // k for k in reversed(small) if k * k != number]


def no_duration(look: Look) -> Found:
    for name, stage in look.each(TrainingStage):
        given = [field for field in stage.duration_fields if getattr(stage, field) is not None]
        if len(given) != 1:
            yield look.error(
                f"the length of training is given {'as ' + ' and '.join(given) if given else 'nowhere'}",
                name,
                *given[-1:],
                fix="write exactly one of `tokens: 3M`, `steps: 500` or `epochs: 2`",
            )


def heads_do_not_divide(look: Look) -> Found:
    for name, stage in look.each(PretrainStage):
        shape = stage.model
        if shape.dim % shape.heads:
            yield look.error(
                f"dim {shape.dim} is not divisible by {shape.heads} heads",
                name,
                "model",
                "heads",
                fix=f"each head gets dim / heads numbers: {_divisors(shape.dim, shape.heads)}",
            )
        elif shape.dim // shape.heads % 2:
            yield look.error(
                f"a head is {shape.dim // shape.heads} wide (dim / heads), which is odd",
                name,
                "model",
                "heads",
                fix="rotary positions turn pairs of numbers, so dim / heads must be even",
            )


def _divisors(dim: int, heads: int) -> str:
    fitting = [h for h in divisors(dim) if dim // h % 2 == 0]
    close = sorted(sorted(fitting, key=lambda h: abs(h - heads))[:3])
    return f"heads could be {', '.join(map(str, close))}" if close else "choose an even dim"


def kv_heads_do_not_divide(look: Look) -> Found:
    for name, stage in look.each(PretrainStage):
        shape = stage.model
        if shape.kv_heads is not None and shape.heads % shape.kv_heads:
            yield look.error(
                f"{shape.heads} heads cannot share {shape.kv_heads} key/value heads evenly",
                name,
                "model",
                "kv_heads",
                fix=f"choose a divisor of {shape.heads}: " + ", ".join(map(str, divisors(shape.heads))),
            )


def context_too_long(look: Look) -> Found:
    for name, stage in look.each(TrainingStage):
        base = (name, stage) if isinstance(stage, PretrainStage) else look.base(getattr(stage, "init", None))
        if base and stage.context is not None and stage.context > base[1].model.context:
            yield look.error(
                f"rows of {stage.context} tokens exceed the model's context of {base[1].model.context}",
                name,
                "context",
                fix=f"write at most that, or a longer `context` in the `model` of `{base[0]}`",
            )


def batch_does_not_divide(look: Look) -> Found:
    for name, stage in look.each(TrainingStage):
        if stage.micro_batch is not None and stage.batch % stage.micro_batch:
            smaller = max(m for m in divisors(stage.batch) if m <= stage.micro_batch)
            yield look.error(
                f"a batch of {stage.batch} rows cannot be made of micro-batches of {stage.micro_batch}",
                name,
                "micro_batch",
                fix=f"choose a divisor of the batch, such as {smaller}",
            )


def step_in_tokens(look: Look) -> Found:
    for name, stage in look.each(TrainingStage):
        context = look.context(stage)
        if context is not None and (tokens := stage.batch * stage.rows_per_item() * context) > LARGEST_STEP:
            row, parallel = stage.rows_per_item() * context, stage.parallel
            ranks = parallel.data * parallel.shard if isinstance(parallel, Parallel) else 1
            part = ranks * (stage.micro_batch or 1)
            meant = part * max(1, round(stage.batch / row / part))
            yield look.error(
                f"a step of {stage.batch:,} rows of {row:,} tokens is {tokens:,} tokens; no published run comes near it",
                name,
                "batch",
                fix=f"`batch` counts rows: {stage.batch:,} tokens a step are `batch: {meant}`",
            )


def more_tokens_than_there_are(look: Look) -> Found:
    for name, stage in look.each(TrainingStage):
        context = look.context(stage) or 1
        shown = stage.tokens or (stage.steps or 0) * stage.batch * context
        if shown > MOST_TOKENS:
            yield look.error(
                f"{shown:.3g} tokens are more than there are",
                name,
                "tokens" if stage.tokens else "steps",
                fix=f"the largest published runs read 36T; at most {MOST_TOKENS // 10**12:,}T are planned",
            )


def shorter_than_one_batch(look: Look) -> Found:
    for name, stage in look.each(TrainingStage):
        context = look.context(stage)
        if stage.tokens is not None and context is not None and stage.tokens < stage.batch * context:
            yield look.error(
                f"{stage.tokens:,} tokens are fewer than one batch ({stage.batch} rows x {context} tokens = "
                f"{stage.batch * context:,})",
                name,
                "tokens",
                fix="train for more tokens, or lower `batch`",
            )


def mup_with_what_granite_has_not(look: Look) -> Found:
    for name, stage in look.each(PretrainStage):
        other = "qk_norm" if stage.model.qk_norm else "moe" if stage.model.moe is not None else None
        if stage.model.mup and other:
            yield look.error(
                f"`mup` and `{other}` cannot be combined",
                name,
                "model",
                "mup",
                fix="no layout that other programs read has both muP's scales and that: leave one of them out",
            )


def more_choices_than_experts(look: Look) -> Found:
    for name, stage in look.each(PretrainStage):
        moe, layers = stage.model.moe, stage.model.layers
        if moe is not None and moe.top_k > moe.experts:
            yield look.error(
                f"each token goes to {moe.top_k} of {moe.experts} experts",
                name,
                "model",
                "moe",
                "top_k",
                fix=f"write at most {moe.experts}; with all of them, the router only weighs",
            )
        elif moe is not None and moe.dense >= layers:
            yield look.error(
                f"{moe.dense} dense layers leave no layer for the experts",
                name,
                "model",
                "moe",
                "dense",
                fix=f"the model has {layers} layers: write less than that",
            )


def adapter_without_init(look: Look) -> Found:
    for name, stage in look.each(PretrainStage):
        if stage.adapter is not None and stage.init is None:
            yield look.error(
                "this pretrain stage trains an adapter, and has no `init`",
                name,
                "adapter",
                fix="an adapter stands beside weights that know something: name a checkpoint in `init`, or leave it out",
            )


def adapter_on_what_says_nothing(look: Look) -> Found:
    for name, stage in look.each(RewardStage):
        if stage.adapter is not None and "lm_head" in stage.adapter.targets:
            yield look.error(
                "a reward model says no words: an adapter on its `lm_head` would never move",
                name,
                "adapter",
                "targets",
                fix="leave lm_head out",
            )


def adapter_on_split_matrices(look: Look) -> Found:
    for name, stage in look.each(TrainingStage):
        if stage.adapter is None or not isinstance(stage.parallel, Parallel):
            continue
        for axis, size in (("tensor", stage.parallel.tensor), ("pipeline", stage.parallel.pipeline)):
            if size > 1:
                yield look.error(
                    f"adapters cannot be trained with `{axis}: {size}`",
                    name,
                    "parallel",
                    axis,
                    fix="use `data` or `shard`: what is trained is small",
                )


def float8_where_it_cannot_be(look: Look) -> Found:
    for name, stage in look.each(TrainingStage):
        if stage.precision != "float8":
            continue
        parallel = stage.parallel
        split = isinstance(parallel, Parallel) and (parallel.tensor > 1 or parallel.pipeline > 1)
        what = (
            "`device: cpu`" if stage.device == "cpu"
            else "an adapter, whose frozen weights need no gradient" if stage.adapter is not None
            else "matrices split by `tensor` or `pipeline`" if split
            else None
        )  # fmt: skip
        if what is not None:
            yield look.error(
                f"`precision: float8` does not go with {what}",
                name,
                "precision",
                fix="write `precision: bf16`, or train all weights on GPUs with `data`, `shard` or `context`",
            )


def muon_on_split_matrices(look: Look) -> Found:
    for name, stage in look.each(TrainingStage):
        if stage.optimizer != "muon":
            continue
        parallel = stage.parallel
        if isinstance(parallel, Parallel) and parallel.tensor * parallel.shard > 1:
            yield look.error(
                "Muon needs whole matrices, and this layout splits them (tensor or shard)",
                name,
                "optimizer",
                fix="use `data` or `pipeline` in `parallel`, or `optimizer: adamw`",
            )


def rising_and_falling_at_once(look: Look) -> Found:
    for name, stage in look.each(TrainingStage):
        if stage.schedule == "wsd" and stage.warmup + stage.decay > 1:
            yield look.error(
                f"the learning rate rises in the first {stage.warmup:g} of the steps and falls in the last {stage.decay:g}: "
                "together that is more than all of them",
                name,
                "warmup",
                fix=f"write `warmup: {max(0.0, 1 - stage.decay):g}` or less, or a smaller `decay`",
            )


def best_of_what_is_not_looked_at(look: Look) -> Found:
    for name, stage in look.each(TrainingStage):
        if not stage.chooses:
            continue
        field = "keep_best" if stage.keep_best is not None else "patience"
        if stage.rows == "rollouts":
            yield look.error(
                f"`{field}` goes by the held-out loss, and {stage.kind} measures rewards before and after only",
                name,
                field,
                fix="leave it out; `keep_every` keeps checkpoints to compare",
            )
        elif stage.validate_every is None:
            yield look.error(
                f"`{field}` chooses among looks at the held-out set, and there are none before the last step",
                name,
                field,
                fix="write `validate_every: 100`, steps between two looks",
            )


def replies_of_a_reward_model(look: Look) -> Found:
    for name, stage in look.each(RewardStage):
        if stage.generation is not None:
            yield look.error(
                "a reward model writes no replies",
                name,
                "generation",
                fix="leave it out, or write it in the stage whose model writes",
            )


TRAPS: tuple[Callable[[Look], Found], ...] = (
    no_duration,
    heads_do_not_divide,
    kv_heads_do_not_divide,
    context_too_long,
    batch_does_not_divide,
    step_in_tokens,
    more_tokens_than_there_are,
    shorter_than_one_batch,
    mup_with_what_granite_has_not,
    more_choices_than_experts,
    adapter_without_init,
    adapter_on_what_says_nothing,
    adapter_on_split_matrices,
    muon_on_split_matrices,
    float8_where_it_cannot_be,
    rising_and_falling_at_once,
    best_of_what_is_not_looked_at,
    replies_of_a_reward_model,
)
