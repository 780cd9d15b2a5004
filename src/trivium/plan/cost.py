"""What each stage will cost, from the recipe alone: parameters, tokens, FLOPs, minutes.

Minutes are FLOPs over the machine's measured peak and an assumed utilisation, so they are estimates: read
them for their order of size. Counts that only the data can tell are said to be unknown instead of guessed,
and upper bounds say that they are bounds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from trivium import compiling
from trivium.model.config import ModelConfig
from trivium.plan import flops, memory
from trivium.recipe.alignment import OnlineStage
from trivium.recipe.data import DataStage, TokenizerStage
from trivium.recipe.deployment import PruneStage, SmallerStage
from trivium.recipe.evaluation import EvaluateStage
from trivium.recipe.lines import Lines
from trivium.recipe.look import Look
from trivium.recipe.models import Recipe
from trivium.recipe.parallel import Parallel
from trivium.recipe.training import PretrainStage, TrainingStage

TRAINING_UTILISATION = 0.4
"""Share of the matmul peak that training a small model reaches, compiled, in bf16 (docs/benchmarks.md)."""
GENERATION_UTILISATION = 0.1
"""The same for generating, of a model that is large enough for arithmetic to decide."""
DECODE, REPLIES = 3e-3, 64
"""Seconds a layer takes for the next token of so many replies where the host decides, not arithmetic (two cores, the quickstart's
evaluation)."""
CHARACTERS_PER_TOKEN = 2.7
"""Of English, code and numbers in a vocabulary of a few thousand (measured: 2.6 to 3.1); used for epochs."""


DATA_RATES = {"documents": 1_000_000.0, "conversations": 2600.0, "preferences": 1900.0, "feedback": 1900.0}
"""Characters, or rows, that a data stage of made-up sources makes in a second (two quiet cores, the quickstart's sources)."""
TOKENIZER_RATE = 8e6
"""Characters that the tokenizer learns from in a second."""


class Speed(NamedTuple):
    """What a rehearsal measured of a training stage."""

    step: float
    """Seconds of an optimizer step."""
    start: float
    """Seconds beside the steps: the compiler, warm caches, the held-out loss, what is saved."""
    record: float = 0.0
    """Seconds before training for each record of the data: cut into tokens, scored by a reference."""
    items: float | None = None
    """Items (rows, pairs) that a training record makes; None: as the recipe alone tells."""
    tokens: float | None = None
    """Tokens of an item, without padding; None: full rows."""


class _Data(NamedTuple):
    """What is known of data stages that have run: characters of the training splits, records of both."""

    characters: Mapping[str, int]
    records: Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class Cost:
    """What a stage will take. None where there is nothing to count, or it is unknown yet: see `note`."""

    stage: str
    kind: str
    parameters: int | None = None
    tokens: float | None = None
    flops: float | None = None
    minutes: float | None = None
    note: str = ""
    parallel: Parallel | None = None
    memory: float | None = None
    """Bytes on each rank of `parallel`, eager and in the precision that takes more where the machine decides."""
    unique: float | None = None
    """Of pre-training: tokens that the data has, each counted once, where that is known."""


def estimate(
    recipe: Recipe,
    peak: float | None = None,
    characters: Mapping[str, int] | None = None,
    speeds: Mapping[str, Speed] | None = None,
    records: Mapping[str, tuple[int, int]] | None = None,
) -> list[Cost]:
    """The cost of every stage, in the order of the recipe.

    `peak` in FLOP/s, None leaves minutes out. `characters`: what the training splits of the data stages that have run
    hold, by stage name. `speeds`: what rehearsals measured here, by stage: they stand in place of an assumed utilisation.
    `records`: of the data stages that have run, in the training and in the held-out split.
    """
    look = Look(recipe, Lines())
    data = _Data(characters or {}, records or {})
    costs = [_stage(look, name, peak, data) for name in recipe.stages]
    return [_rehearsed(look, cost, (speeds or {}).get(cost.stage), records or {}) for cost in costs]


def _rehearsed(look: Look, cost: Cost, speed: Speed | None, records: Mapping[str, tuple[int, int]]) -> Cost:
    """`cost` with the minutes that a rehearsal gives it, and the tokens, where it had rows of the data."""
    stage = look.recipe.stages[cost.stage]
    if speed is None or not isinstance(stage, TrainingStage):
        return cost
    if speed.items is not None and speed.tokens is not None and stage.data in records:
        train, heldout = records[stage.data]
        steps, items = stage.length(round(train * speed.items), speed.tokens)
        seconds = steps * speed.step + speed.start + (train + heldout) * speed.record
        tokens = items * speed.tokens
        operations = cost.flops and cost.tokens and cost.flops * tokens / cost.tokens
        return replace(
            cost,
            tokens=tokens,
            flops=operations,
            minutes=seconds / 60,
            note="as rehearsed here, on its own rows",
        )
    if cost.tokens is None:
        return cost
    full = stage.batch * stage.rows_per_item() * (look.context(stage) or 1)
    seconds = cost.tokens / full * speed.step + speed.start
    note = ", ".join(part for part in (cost.note, "minutes as rehearsed here") if part)
    return replace(cost, minutes=seconds / 60, note=note)


def model_of(look: Look, name: str | None) -> ModelConfig | None:
    """The shape of the model that a stage makes or uses, through its ancestors."""
    base = look.base(name)
    vocabulary = look.get(base[1].tokenizer, TokenizerStage) if base else None
    if base is None or vocabulary is None:
        return None
    config = ModelConfig.from_shape(base[1].model, vocabulary.vocab_size)
    for _, stage in reversed(look.ancestry(name)):
        if isinstance(stage, PruneStage):
            config = replace(
                config, layers=stage.layers or config.layers, hidden=stage.hidden or config.hidden
            )
    return config


def _stage(look: Look, name: str, peak: float | None, data: _Data) -> Cost:
    stage = look.recipe.stages[name]
    if isinstance(stage, TrainingStage):
        return _training(look, name, stage, peak, data)
    if isinstance(stage, EvaluateStage):
        return _evaluation(look, name, stage, peak)
    if isinstance(stage, DataStage) and stage.size and peak is not None:
        seconds = stage.size / DATA_RATES[stage.format]
        return Cost(
            name,
            stage.kind,
            minutes=seconds / 60,
            note="at the rates of two cores, of sources that are made up",
        )
    if isinstance(stage, TokenizerStage) and peak is not None:
        read = look.get(stage.data, DataStage)
        known = data.characters.get(stage.data, read.size if read else None)
        minutes = None if known is None else min(known, stage.sample) / TOKENIZER_RATE / 60
        return Cost(name, stage.kind, minutes=minutes)
    if isinstance(stage, SmallerStage) and (config := model_of(look, name)):
        return Cost(name, stage.kind, parameters=flops.parameters(config))
    return Cost(name, stage.kind)


def _training(look: Look, name: str, stage: TrainingStage, peak: float | None, data: _Data) -> Cost:
    config, context = model_of(look, name), look.context(stage)
    if config is None or context is None:
        return Cost(name, stage.kind, note="unknown: no base model")
    count = flops.parameters(config)
    tokens, note = _tokens(look, stage, context, data)
    parallel, held = _memory(config, context, stage)
    if tokens is None:
        return Cost(name, stage.kind, count, note=note, parallel=parallel, memory=held)
    frozen = (
        stage.adapter is not None
    )  # a frozen weight needs no product for its own gradient (`flops.adapting`)
    each = (stage.forwards - frozen) * flops.forward(config, context)
    operations = tokens * (each + frozen * flops.square(config) * context)
    minutes = None
    if peak is not None:
        seconds = operations / (peak * TRAINING_UTILISATION)
        steps = tokens / (stage.batch * stage.rows_per_item() * context)
        minutes = (seconds + _beside(config, stage, steps, operations, peak)) / 60
    unique = _unique(look, stage, data.characters) if isinstance(stage, PretrainStage) else None
    return Cost(name, stage.kind, count, tokens, operations, minutes, note, parallel, held, unique)


def _beside(config: ModelConfig, stage: TrainingStage, steps: float, operations: float, peak: float) -> float:
    """Seconds beside the passes (FLOPs: `operations`): Muon's iterations, the compiler, replies that the policy writes."""
    beside = 0.0
    if stage.optimizer == "muon":
        beside += steps * flops.newton_schulz(config) / (peak * TRAINING_UTILISATION)
    if compiling.pays(stage.compile, operations, peak):
        beside += compiling.SECONDS
    if isinstance(stage, OnlineStage) and stage.rollout_server is None:
        sets = steps / stage.updates
        rows = math.ceil(stage.batch * stage.updates / REPLIES)
        beside += sets * stage.max_new_tokens * rows * config.layers * DECODE
    return beside


def _unique(look: Look, stage: TrainingStage, characters: Mapping[str, int]) -> float | None:
    """Tokens of the data, of its size where it has not run."""
    data = look.get(stage.data, DataStage)
    known = characters.get(stage.data, data.size if data is not None else None)
    return None if known is None else known / CHARACTERS_PER_TOKEN


def _memory(config: ModelConfig, context: int, stage: TrainingStage) -> tuple[Parallel | None, float | None]:
    """The layout and the bytes on each of its ranks; nothing where the devices decide."""
    parallel = stage.parallel
    if not isinstance(parallel, Parallel):
        return None, None
    trained, kept = flops.adapted(config, stage.adapter) if stage.adapter else (None, 0)
    rows = stage.micro_batch or max(1, stage.batch // (parallel.data * parallel.shard))
    needed = memory.training(
        config,
        parallel,
        rows=rows * stage.rows_per_item(),
        context=context,
        bf16=stage.precision in ("bf16", "float8"),
        recompute=stage.recompute == "blocks",
        z_loss=getattr(stage, "z_loss", 0.0) > 0,
        trained=trained,
        int8=kept if stage.adapter and stage.adapter.quantize == "int8" else 0,
    )
    return parallel, needed.total


def _tokens(look: Look, stage: TrainingStage, context: int, data: _Data) -> tuple[float | None, str]:
    """Tokens that a training stage reads (None if unknown), and what to know about the number."""
    packed, each = isinstance(stage, PretrainStage), context * stage.rows_per_item()
    at_most, counted = (
        "at most: rows end with their reply",
        f"at {CHARACTERS_PER_TOKEN:g} characters a token",
    )
    known = data.characters.get(stage.data)
    if known is not None and stage.data in data.records and stage.rows in ("pairs", "marked"):
        items = data.records[stage.data][0]
        mean = known / max(1, items) / CHARACTERS_PER_TOKEN
        return stage.length(items, mean).items * min(each, mean), counted
    if stage.epochs is None:
        told = "" if packed or stage.tokens is not None else at_most
        return stage.length(0, each).items * each, told
    source = look.get(stage.data, DataStage)
    size = source.size if source is not None else None
    if known is None and packed:
        known = size
    if known is not None and stage.rows in ("documents", "replies"):
        rows = max(1, math.ceil(known / CHARACTERS_PER_TOKEN / context))
        return stage.length(rows, each).items * each, counted
    if size is None:
        return None, f"unknown until {stage.data} has run"
    return stage.length(size, each).items * each, at_most


def _evaluation(look: Look, name: str, stage: EvaluateStage, peak: float | None) -> Cost:
    """Every suite reads its items with every model; those that generate also write replies."""
    read = written = 0.0
    reading = writing = 0.0
    for model in dict.fromkeys((stage.model, *stage.compare, *([stage.baseline] if stage.baseline else []))):
        config = model_of(look, model)
        if config is None:
            return Cost(name, stage.kind, note="unknown: no base model")
        per_token = flops.forward(config, config.context)
        for suite in stage.suites:
            requests = suite.items * suite.asked
            rows = requests * suite.reads
            read += rows * config.context
            reading += rows * config.context * per_token
            if suite.writes:
                written += requests * suite.max_new_tokens
                writing += requests * suite.max_new_tokens * per_token
    minutes = None
    if peak is not None:
        layers = config.layers if config else 0
        write = max(writing / (peak * GENERATION_UTILISATION), written / REPLIES * layers * DECODE)
        minutes = (reading / (peak * TRAINING_UTILISATION) + write) / 60
    tested = model_of(look, stage.model)
    count = flops.parameters(tested) if tested else None
    return Cost(
        name, stage.kind, count, read + written, reading + writing, minutes, "at most: full rows and replies"
    )
