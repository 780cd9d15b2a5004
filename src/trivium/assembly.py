"""One phase from its row of the table to its metrics: open the data, lay the model out, make batches, train, measure."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from trivium.batches.context import Items, Phase, PhaseContext
from trivium.batches.rows import BatchSharding
from trivium.batches.samples import sampler
from trivium.errors import ArtifactError, DataError
from trivium.files import read_json, write_json
from trivium.model.transformer import Transformer
from trivium.plan import flops
from trivium.seeds import seed_torch
from trivium.train import float8
from trivium.train.distributed import first_rank_first, layout, mesh
from trivium.train.loop import train
from trivium.train.run import Passes, Run
from trivium.types import Batches, LiveBatches, Objective

Context = PhaseContext[Any]


def train_phase(phase: Phase[Any], ctx: Context) -> dict[str, Any]:
    """Trains `ctx.model` in place, going on from `ctx.work` if an earlier try left a checkpoint there. Returns the metrics."""
    ctx.network.to(
        ctx.machine.device
    )  # a device or a precision that is not there is told before any data is read
    with first_rank_first():
        items = phase.batches(ctx)
    count, each = items.train.count, items.train.tokens_per_item
    _check_sizes(ctx, round(count * ctx.config.repeats * each))
    length, tokens_per_step = ctx.config.length(count, each), round(ctx.config.batch * each)
    steps = length.steps
    objective = phase.objective(ctx.config)
    sharding = _sharding(ctx, length.items)
    pipeline = _lay_out(ctx, items, objective, sharding)
    run = _run(ctx, items, objective, pipeline, sharding, steps, tokens_per_step)
    work = {"tokens_per_step": tokens_per_step, "flops_per_step": run.flops_per_step}
    ctx.emit({"event": "phase", "steps": steps, **work, **items.account})
    before = _once(ctx, "before", items.measure)
    try:
        result = train(run)
    finally:
        items.close()
    if before is not None:
        result |= {"before": before, "after": items.measure()}
        ctx.emit({"event": "validation", **result["after"]})
    seconds = result["seconds_per_step"]
    return result | {
        "tokens_per_second": tokens_per_step / seconds if seconds else None,
        "tokens": round(min(length.items, result["steps"] * ctx.config.batch) * each),
        "data": items.account,
        "precision": ctx.machine.precision,
        "layout": {**mesh().sizes, "micro_batch": sharding.micro, "recompute": ctx.config.recompute},
    }


def _sharding(ctx: Context, total: int) -> BatchSharding:
    """What this rank sees of each batch."""
    rank, world = layout()
    micro = ctx.config.micro_batch or ctx.config.batch // world
    return BatchSharding(ctx.seed, ctx.config.batch, micro, rank, world, total)


def _lay_out(ctx: Context, items: Items, objective: Objective, sharding: BatchSharding) -> Passes | None:
    """The model over the ranks; what runs its passes where layers lie on several of them."""
    model, config, machine, grid = ctx.model, ctx.config, ctx.machine, mesh()
    ctx.network.train()
    # a checkpoint that the run goes on from has the generator's state of then
    seed_torch(ctx.seed, "dropout")
    model.recompute = config.recompute == "blocks"
    if machine.float8:
        rows = sharding.micro * config.rows_per_item()
        float8.check_rows(rows * items.train.length // grid.size("context"))
        float8.convert(model)
    if grid.grid is None:
        return None
    # here: torch's engines for several ranks take half as long to import as torch itself
    from trivium.train.parallel.apply import check, parallelise
    from trivium.train.parallel.pipeline import Pipeline, Stage

    check(model.config, grid, items.train.length)
    root = parallelise(model, grid, bf16=machine.bf16)
    return Pipeline(root, grid, objective, machine.device) if isinstance(root, Stage) else None


def _cut(model: Transformer, batches: Batches) -> Batches:
    """`batches` as this rank needs them: its own run of places where rows are cut along time."""
    if model.model.sequence is None:
        return batches
    from trivium.train.parallel.apply import cut

    return cut(model, batches)


def _run(
    ctx: Context,
    items: Items,
    objective: Objective,
    pipeline: Passes | None,
    sharding: BatchSharding,
    steps: int,
    tokens_per_step: int,
) -> Run:
    """What the loop is given: the batches of this rank, and how much work they are."""
    config, model, machine = ctx.config, ctx.model, ctx.machine
    batches = items.live(items.ordered(sharding, steps), items.train)
    validation, sources = items.validation(sharding.micro)
    frozen, critic = config.adapter is not None, getattr(ctx.network, "critic", None) is not None
    work = partial(flops.step, model.config, frozen=frozen, critic=critic)
    live = batches.live_flops if isinstance(batches, LiveBatches) else 0.0
    places = config.batch * config.rows_per_item() * items.train.length
    return Run(
        model=ctx.network,
        objective=objective,
        pipeline=pipeline,
        batches=_cut(model, batches),
        steps=steps,
        config=config,
        machine=machine,
        folder=ctx.work / "checkpoints",
        emit=ctx.emit,
        validation=_cut(model, validation) if validation else None,
        sources=sources,
        sample=sampler(ctx),
        flops_per_step=work(tokens_per_step, tokens_per_step * items.train.length) + live,
        filled=tokens_per_step / places if model.skips_padding else 1.0,
        live_flops=live,
        work=work,
        peak=ctx.peak(machine.precision, machine.device),
    )


def _once(ctx: Context, name: str, measure: Callable[[], dict[str, float] | None]) -> dict[str, float] | None:
    """What is measured once: a resumed run finds it in `work`."""
    path = ctx.work / f"{name}.json"
    if not path.exists():
        measured = measure()
        if measured is None:
            return None
        write_json(path, measured)
    kept: dict[str, float] = read_json(path)
    return kept


def _check_sizes(ctx: Context, available: int) -> None:
    """What would go wrong only inside the first steps, or without a word. ArtifactError for ids that the model has not."""
    config = ctx.config
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
