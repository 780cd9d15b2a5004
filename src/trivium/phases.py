"""THE TABLE: what a training phase is. Only the data and the loss change between phases; the loop is one.

Every row says how a phase makes its batches and which objective it minimises. All else (where the weights come from, how
the checkpoint is written, what is measured before and after) is the same for all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trivium.batches.annotate import annotate_feedback, annotate_reference
from trivium.batches.chat import Conversations
from trivium.batches.context import Items, PhaseContext, Rows, both_splits
from trivium.batches.feedback import Feedback, WithBaseline
from trivium.batches.online import critic_rollouts, group_rollouts
from trivium.batches.packed import Corpus, open_corpus
from trivium.batches.pairs import Pairs
from trivium.batches.rows import BatchSharding, Fixed, Shuffled, with_sources
from trivium.batches.samples import sampler
from trivium.batches.shares import labels, mixed
from trivium.batches.teacher import taught
from trivium.corpus.records import read
from trivium.errors import ArtifactError, DataError
from trivium.files import read_json, write_json
from trivium.model.scalar import ActorCritic, Scalar
from trivium.model.transformer import Transformer
from trivium.objectives import Distill, Dpo, Grpo, Kto, NextToken, Orpo, Ppo, Reward
from trivium.plan import flops
from trivium.recipe.training import TrainingStage
from trivium.seeds import seed_torch
from trivium.text.chat import ChatTokenizer
from trivium.train import float8
from trivium.train.distributed import first_rank_first, layout, mesh
from trivium.train.loop import train
from trivium.train.machine import resolve
from trivium.train.parallel.apply import check, cut, parallelise
from trivium.train.parallel.pipeline import Pipeline, Stage
from trivium.train.run import Run
from trivium.types import Batches, Emit, Objective
from trivium.verify import VERIFIERS

VALIDATION_ITEMS = 256
"""Held-out rows or pairs that the loss is taken on before and after a phase."""


def packed(ctx: PhaseContext) -> Items:
    tokens = ctx.tokens or ctx.work

    def corpus(split: str, rows: int) -> Corpus:
        what = f"the {split} split"
        return open_corpus(ctx.data / split, ctx.chat, tokens / split, ctx.length, rows=rows, what=what)

    train_split = corpus("train", ctx.batch)
    try:
        found = corpus("heldout", 1)
        found.names = labels(ctx.data, [one.shard.source for one in found.sources])
        heldout: Corpus | None = found
    except DataError:  # a held-out split shorter than one row: trained without a before and after
        heldout = None
    items = Items(train_split, heldout, {"tokens_available": train_split.total_tokens})

    def online(plan: BatchSharding, steps: int) -> Batches:
        batches, items.account["sources"] = mixed(train_split, ctx.data, plan, steps, ctx.emit)
        return batches

    items.online = online
    return items


def chat(ctx: PhaseContext) -> Items:
    def conversations(split: str) -> Conversations:
        learn = getattr(ctx.config, "learn", "all")
        return Conversations.build(read(ctx.data / split), ctx.chat, ctx.length, learn=learn)

    return both_splits(conversations, ctx)


def pairs(ctx: PhaseContext) -> Items:
    def build(split: str) -> Pairs:
        return Pairs.build(read(ctx.data / split), ctx.chat, ctx.length)

    items = both_splits(build, ctx)
    items.rows_per_item = 2
    return items


def pairs_with_reference(ctx: PhaseContext) -> Items:
    items = pairs(ctx)
    _reference(ctx, items, annotate_reference)
    return items


def feedback(ctx: PhaseContext) -> Items:
    def build(split: str) -> Feedback:
        return Feedback.build(read(ctx.data / split), ctx.chat, ctx.length, both=split == "train")

    items = both_splits(build, ctx)
    _reference(ctx, items, annotate_feedback)

    def around(batches: Batches) -> Batches:
        held = items.heldout if isinstance(batches, Fixed) else items.train
        assert isinstance(held, Feedback)
        return WithBaseline(batches, held, ctx.network, ctx.machine)

    items.around = around
    return items


def _reference(ctx: PhaseContext, items: Items, annotate: Callable[..., None]) -> None:
    """The frozen reference's log-probabilities of both splits, from the model as it is before the first step."""
    ctx.emit(
        {
            "event": "message",
            "message": "the frozen reference is the checkpoint that this phase starts from; its log-probabilities are "
            "computed once, so one model is in memory",
        }
    )
    for name, part in (("train", items.train), ("heldout", items.heldout)):
        if part is not None:
            where = ctx.work / f"reference-{name}.safetensors"
            annotate(part, ctx.model, where, autocast=ctx.machine.autocast(), device=ctx.machine.device)


@dataclass(frozen=True)
class Phase:
    """One row of the table."""

    batches: Callable[[PhaseContext], Items]
    objective: Callable[[Any], Objective]
    network: Callable[[Transformer, Any], Any] = lambda model, config: model
    """What the loop calls: the model, or the model and its scalar head."""


PHASES: dict[str, Phase] = {
    "pretrain": Phase(packed, lambda c: NextToken(c.z_loss)),
    "sft": Phase(chat, lambda c: NextToken(c.z_loss)),
    "reward": Phase(pairs, lambda c: Reward(c.margin, c.centring), lambda model, c: Scalar(model)),
    "dpo": Phase(
        pairs_with_reference, lambda c: Dpo(c.beta, c.nll, c.loss, c.label_smoothing, c.length_normalised)
    ),
    "orpo": Phase(pairs, lambda c: Orpo(c.beta)),
    "kto": Phase(feedback, lambda c: Kto(c.beta, c.desirable, c.undesirable)),
    "ppo": Phase(
        critic_rollouts,
        lambda c: Ppo(c.clip_epsilon, c.value_clip, c.value_weight, c.entropy_weight),
        lambda model, c: ActorCritic(model, None if c.share_trunk else deepcopy(model)),
    ),
    "grpo": Phase(
        group_rollouts, lambda c: Grpo(c.loss, c.max_new_tokens, c.clip_epsilon, c.clip_epsilon_high, c.kl)
    ),
    "distill": Phase(taught, lambda c: Distill(c.divergence, c.distill_temperature, c.mix, c.share)),
}


def _measured(items: Items, work: Path, name: str) -> dict[str, float]:
    """What the phase measures beside its loss, once: a resumed run finds it in `work`."""
    if items.measure is None:
        return {}
    path = work / f"{name}.json"
    if not path.exists():
        write_json(path, items.measure())
    found: dict[str, float] = read_json(path)
    return found


def steps_of(config: TrainingStage, items: int, tokens_per_item: float) -> int:
    """Optimizer steps for the duration that the stage asks for; at least one."""
    if config.steps is not None:
        return config.steps
    if config.tokens is not None:
        return max(1, round(config.tokens // (config.batch * tokens_per_item)))
    assert config.epochs is not None
    return max(1, round(config.epochs * items / config.batch))


def train_phase(
    config: TrainingStage,
    *,
    model: Transformer,
    chat_tokenizer: ChatTokenizer,
    data: Path,
    work: Path,
    seed: int,
    emit: Emit,
    peak: Callable[[str, str], float],
    others: Mapping[str, Path] | None = None,
    network: Any = None,
    tokens: Path | None = None,
) -> dict[str, Any]:
    """Runs one phase on `model` in place, going on from `work` if an earlier try left a checkpoint there.

    `peak` gives the measured matmul peak in FLOP/s for (precision, device). `others`: the artifacts that fields such as
    `reward_model` name. `network`: what the loop calls where that is more than the model (`Phase.network`). `tokens`: the
    folder of the data's token shards, shared with other stages (default: in `work`). Returns the metrics.
    """
    phase, machine = PHASES[config.kind], resolve(config)
    network = phase.network(model, config) if network is None else network
    network.to(machine.device)
    length = config.context or model.config.context
    score = VERIFIERS.get(getattr(config, "reward", None) or "")
    ctx = PhaseContext(
        config,
        data,
        chat_tokenizer,
        length,
        work,
        seed,
        model,
        network,
        machine,
        emit,
        others or {},
        score,
        tokens,
    )
    with first_rank_first():
        items = phase.batches(ctx)
    each = items.train.tokens_per_item
    _check_sizes(config, ctx, round(items.train.count * items.repeats * each))
    steps = steps_of(config, items.train.count * items.repeats, each)
    tokens_per_step = round(config.batch * each)
    emit({"event": "phase", "steps": steps, "tokens_per_step": tokens_per_step, **items.account})
    run = _run(ctx, items, phase.objective(config), steps, tokens_per_step, peak)
    before = _measured(items, work, "before")
    result = train(run)
    if items.measure is not None:
        result |= {"before": before, "after": items.measure()}
        emit({"event": "validation", **result["after"]})
    seconds = result["seconds_per_step"]
    return result | {
        "tokens_per_second": tokens_per_step / seconds if seconds else None,
        "tokens": steps * tokens_per_step,
        "data": items.account,
        "precision": machine.precision,
    }


def _run(
    ctx: PhaseContext,
    items: Items,
    objective: Objective,
    steps: int,
    tokens_per_step: int,
    peak: Callable[[str, str], float],
) -> Run:
    """The model laid over the ranks, and what the loop needs beside it."""
    config, model, machine = ctx.config, ctx.model, ctx.machine
    rank, world = layout()
    micro = config.micro_batch or config.batch // world
    plan = BatchSharding(ctx.seed, config.batch, micro, rank, world)
    ctx.network.train()
    seed_torch(
        ctx.seed, "dropout"
    )  # a checkpoint that the run goes on from has the generator's state of then
    model.recompute = config.recompute == "blocks"
    grid = mesh()
    check(model.config, grid, items.train.length)
    if machine.float8:
        float8.check_rows(micro * items.rows_per_item * items.train.length // grid.size("context"))
        float8.convert(model)
    root = parallelise(model, grid, bf16=machine.bf16)
    made = items.online(plan, steps) if items.online else Shuffled(items.train.count, items.train.item, plan)
    held = items.heldout
    validation = _fixed(held, micro) if held else None
    per_token = (flops.adapting if config.adapter else flops.training)(model.config, items.train.length)
    return Run(
        model=ctx.network,
        objective=objective,
        pipeline=Pipeline(root, grid, objective, machine.device) if isinstance(root, Stage) else None,
        batches=cut(model, items.around(made)),
        steps=steps,
        config=config,
        machine=machine,
        folder=ctx.work / "checkpoints",
        emit=ctx.emit,
        validation=cut(model, items.around(validation)) if validation else None,
        sources=validation.names if validation else (),
        sample=sampler(ctx),
        flops_per_step=per_token * tokens_per_step,
        peak=peak(machine.precision, machine.device),
    )


def _fixed(held: Rows, micro: int) -> Fixed:
    """The held-out rows that the loss is taken on; they say of which source they are where there are several."""
    count = min(held.count, VALIDATION_ITEMS)
    names, origins = getattr(held, "names", ()), getattr(held, "origins", None)
    if origins is None or len(names) < 2:
        return Fixed(count, held.item, micro)
    return Fixed(count, with_sources(held.item, origins), micro, names=tuple(names))


def _check_sizes(config: TrainingStage, ctx: PhaseContext, available: int) -> None:
    """What would go wrong only inside the first steps, or without a word. ArtifactError for ids that the model has not."""
    known, given = ctx.model.config.vocab_size, ctx.chat.vocab_size
    if given > known:
        raise ArtifactError(
            f"the tokenizer has {given} ids and the checkpoint's embeddings hold {known}",
            fix="start from a checkpoint that was trained with this tokenizer",
        )
    if config.tokens is not None and config.tokens > available:
        times = config.tokens / available
        if times > config.max_epochs:
            raise DataError(
                f"{config.tokens:,} tokens are asked for and the training data has {available:,}: it would be read "
                f"{times:.3g} times, and `max_epochs` is {config.max_epochs:g}",
                fix=f"add data, ask for at most {round(available * config.max_epochs):,} tokens, or write "
                f"`max_epochs: {math.ceil(times)}` if you mean it",
            )
        ctx.emit(
            {
                "event": "warning",
                "message": f"{config.tokens:,} tokens are asked for and the training data has {available:,}: it is read "
                f"{times:.3g} times (`epochs: {times:.3g}` says the same)",
            }
        )
