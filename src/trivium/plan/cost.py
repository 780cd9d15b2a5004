"""What each stage will cost, from the recipe alone: parameters, tokens, FLOPs, minutes.

Minutes are counted at the machine's measured rates (`plan.rates`), so they are estimates: a rehearsal knows better. Counts that
only the data can tell are said to be unknown instead of guessed, and upper bounds say that they are bounds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from trivium import compiling
from trivium.model.config import ModelConfig
from trivium.plan import flops, memory
from trivium.plan.bands import Band
from trivium.plan.doubts import doubts
from trivium.plan.rates import Rates
from trivium.recipe.alignment import OnlineStage
from trivium.recipe.data import DataStage, TokenizerStage
from trivium.recipe.deployment import PruneStage, SmallerStage
from trivium.recipe.evaluation import EvaluateStage
from trivium.recipe.lines import Lines
from trivium.recipe.look import Look
from trivium.recipe.models import Recipe
from trivium.recipe.parallel import Parallel
from trivium.recipe.training import PretrainStage, TrainingStage

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
    """What is known of data stages, having run or by their sources: characters of the training splits, records of both."""

    characters: Mapping[str, float]
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
    compiled: bool = False
    """Of training: whether it is expected to be worth it here."""
    basis: str = "assumed"
    """Where the minutes come from: whose doubt they have (`doubts.yaml`)."""

    @property
    def band(self) -> Band | None:
        """The minutes as low, expected and high."""
        return None if self.minutes is None else doubts()[self.basis].band * self.minutes


def estimate(
    recipe: Recipe,
    rates: Rates | None = None,
    characters: Mapping[str, int] | None = None,
    speeds: Mapping[str, Speed] | None = None,
    records: Mapping[str, tuple[int, int]] | None = None,
) -> list[Cost]:
    """The cost of every stage, in the order of the recipe.

    `rates`: of this machine; None leaves minutes out. `characters`: what the training splits of the data stages that have run
    hold, by stage name. `speeds`: what rehearsals measured here, by stage: they stand in place of an assumed utilisation.
    `records`: of the data stages that have run, in the training and in the held-out split.
    """
    look = Look(recipe, Lines())
    usual = _usual(look)
    data = _Data(
        {name: items * each for name, (items, each) in usual.items()} | dict(characters or {}),
        {name: (items, 0) for name, (items, _) in usual.items()} | dict(records or {}),
    )
    costs = [_stage(look, name, rates, data) for name in recipe.stages]
    return [_rehearsed(look, cost, (speeds or {}).get(cost.stage), records or {}) for cost in costs]


def _usual(look: Look) -> dict[str, tuple[int, float]]:
    """Items, and the characters of one, of data stages whose sources are known to make such items."""
    found = {}
    for name, stage in look.each(DataStage):
        known = [source.characters.get(stage.format) for source in stage.sources]
        if stage.size and known and all(known):
            weights = [source.weight or 1.0 for source in stage.sources]
            mean = sum(w * each for w, each in zip(weights, known, strict=True) if each) / sum(weights)
            found[name] = (stage.size, mean)
    return found


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
            basis="rehearsed",
        )
    if cost.tokens is None:
        return cost
    full = stage.batch * stage.rows_per_item() * (look.context(stage) or 1)
    seconds = cost.tokens / full * speed.step + speed.start
    note = ", ".join(part for part in (cost.note, "minutes as rehearsed here") if part)
    return replace(cost, minutes=seconds / 60, note=note, basis="rehearsed")


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


def _stage(look: Look, name: str, rates: Rates | None, data: _Data) -> Cost:
    stage = look.recipe.stages[name]
    if isinstance(stage, TrainingStage):
        return _training(look, name, stage, rates, data)
    if isinstance(stage, EvaluateStage):
        return _evaluation(look, name, stage, rates)
    if isinstance(stage, DataStage) and stage.size and rates is not None:
        seconds = stage.size / DATA_RATES[stage.format]
        return Cost(
            name,
            stage.kind,
            minutes=seconds / 60,
            note="at the rates of two cores, of sources that are made up",
        )
    if isinstance(stage, TokenizerStage) and rates is not None:
        read = look.get(stage.data, DataStage)
        known = data.characters.get(stage.data, read.size if read else None)
        minutes = None if known is None else min(known, stage.sample) / TOKENIZER_RATE / 60
        return Cost(name, stage.kind, minutes=minutes)
    if isinstance(stage, SmallerStage) and (config := model_of(look, name)):
        return Cost(name, stage.kind, parameters=flops.parameters(config))
    return Cost(name, stage.kind)


def _training(look: Look, name: str, stage: TrainingStage, rates: Rates | None, data: _Data) -> Cost:
    config, context = model_of(look, name), look.context(stage)
    if config is None or context is None:
        return Cost(name, stage.kind, note="unknown: no base model")
    count = flops.parameters(config)
    tokens, note, filled = _tokens(look, stage, context, data)
    parallel, held = _memory(config, context, stage)
    if tokens is None:
        return Cost(name, stage.kind, count, note=note, parallel=parallel, memory=held)
    frozen = (
        stage.adapter is not None
    )  # a frozen weight needs no product for its own gradient (`flops.adapting`)
    each = (stage.forwards - frozen) * flops.forward(config, context)
    operations = tokens * (each + frozen * flops.square(config) * context)
    minutes, fused = None, False
    if rates is not None:
        fused = compiling.pays(stage.compile, operations, rates.peak, filled)
        computed = tokens / (filled if fused else 1.0)
        seconds = computed * rates.seconds(config, context, stage.forwards, frozen=frozen, fused=fused)
        steps = tokens / (stage.batch * stage.rows_per_item() * context)
        minutes = (seconds + _beside(config, stage, steps, rates) + fused * compiling.SECONDS) / 60
    unique = _unique(look, stage, data.characters) if isinstance(stage, PretrainStage) else None
    return Cost(name, stage.kind, count, tokens, operations, minutes, note, parallel, held, unique, fused)


def _beside(config: ModelConfig, stage: TrainingStage, steps: float, rates: Rates) -> float:
    """Seconds beside the passes: Muon's iterations, replies that the policy writes."""
    beside = 0.0
    if stage.optimizer == "muon":
        beside += steps * flops.newton_schulz(config) / rates.product(config.dim)
    if isinstance(stage, OnlineStage) and stage.rollout_server is None:
        sets = steps / stage.updates
        rows = math.ceil(stage.batch * stage.updates / REPLIES)
        beside += sets * stage.max_new_tokens * rows * config.layers * DECODE
    return beside


def _unique(look: Look, stage: TrainingStage, characters: Mapping[str, float]) -> float | None:
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


def _tokens(look: Look, stage: TrainingStage, context: int, data: _Data) -> tuple[float | None, str, float]:
    """Tokens that a training stage reads (None if unknown), what to know about the number, and the share of
    their rows' places that they fill."""
    packed, each = isinstance(stage, PretrainStage), context * stage.rows_per_item()
    at_most, counted = (
        "at most: rows end with their reply",
        f"at {CHARACTERS_PER_TOKEN:g} characters a token",
    )
    known = data.characters.get(stage.data)
    if known is not None and stage.data in data.records and stage.rows in ("pairs", "marked"):
        items = data.records[stage.data][0]
        mean = known / max(1, items) / CHARACTERS_PER_TOKEN
        held = min(each, mean)
        return stage.length(items, mean).items * held, counted, held / each
    if stage.epochs is None:
        told = "" if packed or stage.tokens is not None else at_most
        return stage.length(0, each).items * each, told, 1.0
    source = look.get(stage.data, DataStage)
    size = source.size if source is not None else None
    if known is None and packed:
        known = size
    if known is not None and stage.rows in ("documents", "replies"):
        rows = max(1, math.ceil(known / CHARACTERS_PER_TOKEN / context))
        return stage.length(rows, each).items * each, counted, 1.0
    if size is None:
        return None, f"unknown until {stage.data} has run", 1.0
    return stage.length(size, each).items * each, at_most, 1.0


def _evaluation(look: Look, name: str, stage: EvaluateStage, rates: Rates | None) -> Cost:
    """Every suite reads its items with every model; those that generate also write replies."""
    read = written = 0.0
    reading = writing = seconds = 0.0
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
            seconds += rows * config.context * (rates.seconds(config, config.context) if rates else 0.0)
            if suite.writes:
                written += requests * suite.max_new_tokens
                writing += requests * suite.max_new_tokens * per_token
    minutes = None
    if rates is not None:
        layers = config.layers if config else 0
        write = max(writing / (rates.peak * GENERATION_UTILISATION), written / REPLIES * layers * DECODE)
        minutes = (seconds + write) / 60
    tested = model_of(look, stage.model)
    count = flops.parameters(tested) if tested else None
    note = "at most: full rows and replies"
    return Cost(name, stage.kind, count, read + written, reading + writing, minutes, note, basis="bound")
