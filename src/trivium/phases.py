"""THE TABLE: what a training phase is. Only the data and the loss change between phases; the loop is one.

Every row says how a phase makes its batches and which objective it minimises. All else (where the weights come from, how
the checkpoint is written, what is measured before and after) is the same for all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from trivium.batches.annotate import annotate_reference
from trivium.batches.chat import Conversations
from trivium.batches.packed import Packed, open_shard
from trivium.batches.pairs import Pairs
from trivium.batches.rows import Fixed, Layout, Shuffled
from trivium.corpus.records import read
from trivium.errors import ArtifactError, DataError
from trivium.model.transformer import Transformer
from trivium.objectives import Dpo, NextToken, Orpo
from trivium.plan import flops
from trivium.recipe.training import TrainingStage
from trivium.text.chat import ChatTokenizer
from trivium.train.distributed import first_rank_first, layout, mesh
from trivium.train.loop import Run, train
from trivium.train.machine import Machine, resolve
from trivium.train.parallel.apply import check, cut, parallelise
from trivium.train.parallel.pipeline import Pipeline, Stage
from trivium.types import Emit, Objective

VALIDATION_ITEMS = 256
"""Held-out rows or pairs that the loss is taken on before and after a phase."""


class Source(NamedTuple):
    """What a phase's batches are made from."""

    data: Path  # a data artifact
    chat: ChatTokenizer
    length: int  # tokens in a row
    batch: int
    work: Path
    init: Transformer
    machine: Machine
    emit: Emit


class Items(NamedTuple):
    """Training and held-out items of a phase, and what was dropped on the way."""

    train: Packed | Conversations | Pairs
    heldout: Packed | Conversations | Pairs | None
    account: dict[str, Any]


def packed(source: Source) -> Items:
    def shard(split: str, rows: int) -> Packed:
        texts = (record["text"] for record in read(source.data / f"{split}.jsonl"))
        what = f"the {split} split"
        return open_shard(texts, source.chat, source.work / split, source.length, rows=rows, what=what)

    train_split = shard("train", source.batch)
    try:
        return Items(train_split, shard("heldout", 1), {"tokens_available": len(train_split.tokens)})
    except DataError:  # a held-out split shorter than one row: trained without a before and after
        return Items(train_split, None, {"tokens_available": len(train_split.tokens)})


def chat(source: Source) -> Items:
    def conversations(split: str) -> Conversations:
        return Conversations.build(read(source.data / f"{split}.jsonl"), source.chat, source.length)

    return _split(conversations, source)


def pairs(source: Source) -> Items:
    def build(split: str) -> Pairs:
        return Pairs.build(read(source.data / f"{split}.jsonl"), source.chat, source.length)

    return _split(build, source)


def pairs_with_reference(source: Source) -> Items:
    items = pairs(source)
    source.emit(
        {
            "event": "message",
            "message": "the frozen reference is the checkpoint that this phase starts from; its log-probabilities are "
            "computed once, so one model is in memory",
        }
    )
    for name, part in (("train", items.train), ("heldout", items.heldout)):
        if isinstance(part, Pairs):
            where = source.work / f"reference-{name}.safetensors"
            annotate_reference(
                part, source.init, where, autocast=source.machine.autocast(), device=source.machine.device
            )
    return items


def _split(build: Callable[[str], Conversations | Pairs], source: Source) -> Items:
    train_items = build("train")
    if train_items.count < source.batch:
        raise DataError(
            f"the training split makes {train_items.count} rows or pairs, which is less than one batch of {source.batch}",
            fix="add sources, or make `batch` smaller",
        )
    account = {**vars(train_items.account), "items": train_items.count, "row_tokens": train_items.length}
    has_heldout = any(True for _ in read(source.data / "heldout.jsonl"))
    return Items(train_items, build("heldout") if has_heldout else None, account)


@dataclass(frozen=True)
class Phase:
    """One row of the table."""

    batches: Callable[[Source], Items]
    objective: Callable[[Any], Objective]


PHASES: dict[str, Phase] = {
    "pretrain": Phase(packed, lambda config: NextToken(config.z_loss)),
    "sft": Phase(chat, lambda config: NextToken(config.z_loss)),
    "dpo": Phase(pairs_with_reference, lambda config: Dpo(config.beta, config.nll)),
    "orpo": Phase(pairs, lambda config: Orpo(config.beta)),
}


def steps_of(config: TrainingStage, items: int, length: int, rows_per_item: int) -> int:
    """Optimizer steps for the duration that the stage asks for; at least one."""
    if config.steps is not None:
        return config.steps
    if config.tokens is not None:
        return max(1, config.tokens // (config.batch * length * rows_per_item))
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
) -> dict[str, Any]:
    """Runs one phase on `model` in place, going on from `work` if an earlier try left a checkpoint there.

    `peak` gives the measured matmul peak in FLOP/s for (precision, device). Returns the stage's metrics.
    """
    phase = PHASES[config.kind]
    machine = resolve(config)
    model.to(machine.device)
    length = config.context or model.config.context
    source = Source(data, chat_tokenizer, length, config.batch, work, model, machine, emit)
    with first_rank_first():
        items = phase.batches(source)
    rank, world = layout()
    micro = config.micro_batch or config.batch // world
    rows_per_item = 2 if isinstance(items.train, Pairs) else 1
    row = items.train.length
    _check_sizes(config, source, items.train.count * rows_per_item * row)
    steps = steps_of(config, items.train.count, row, rows_per_item)
    tokens_per_step = config.batch * rows_per_item * row
    model.train()
    model.recompute = config.recompute == "blocks"
    grid = mesh()
    check(model.config, grid, row)
    root = parallelise(model, grid, bf16=machine.bf16)
    objective = phase.objective(config)
    order = Shuffled(items.train.count, items.train.item, Layout(seed, config.batch, micro, rank, world))
    run = Run(
        model=model,
        objective=objective,
        pipeline=Pipeline(root, grid, objective, machine.device) if isinstance(root, Stage) else None,
        batches=cut(model, order),
        steps=steps,
        config=config,
        machine=machine,
        folder=work / "checkpoints",
        emit=emit,
        validation=items.heldout and cut(model, _fixed(items.heldout, micro)),
        flops_per_step=(flops.adapting if config.adapter else flops.training)(model.config, row)
        * tokens_per_step,
        peak=peak("bf16" if machine.bf16 else "float32", machine.device),
    )
    emit({"event": "phase", "steps": steps, "tokens_per_step": tokens_per_step, **items.account})
    result = train(run)
    seconds = result["seconds_per_step"]
    return result | {
        "tokens_per_second": tokens_per_step / seconds if seconds else None,
        "tokens": steps * tokens_per_step,
        "data": items.account,
        "precision": "bf16" if machine.bf16 else "float32",
    }


def _fixed(heldout: Packed | Conversations | Pairs, micro: int) -> Fixed:
    return Fixed(min(heldout.count, VALIDATION_ITEMS), heldout.item, micro)


def _check_sizes(config: TrainingStage, source: Source, available: int) -> None:
    """What would go wrong only inside the first steps, or without a word. ArtifactError for ids that the model has not."""
    known, given = source.init.config.vocab_size, source.chat.vocab_size
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
                f"{times:.3g} times, and more than {config.max_epochs:g} helps little",
                fix=f"add data, ask for at most {round(available * config.max_epochs):,} tokens, or write "
                f"`max_epochs: {math.ceil(times)}` if you mean it",
            )
        source.emit(
            {
                "event": "warning",
                "message": f"{config.tokens:,} tokens are asked for and the training data has {available:,}: it is read "
                f"{times:.3g} times (`epochs: {times:.3g}` says the same)",
            }
        )
