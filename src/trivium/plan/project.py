"""A recipe on a cluster: for each stage whether it fits, in which layout, and its time, cost and energy as bands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from trivium import compiling
from trivium.errors import RecipeError
from trivium.model.config import ModelConfig
from trivium.plan import failures, flops, memory, roofline, search
from trivium.plan.bands import NONE, Band, exactly, total
from trivium.plan.cost import Cost, estimate, model_of
from trivium.plan.doubts import Doubt, doubts
from trivium.plan.hardware import Cluster
from trivium.plan.layout import lay_out
from trivium.recipe.alignment import OnlineStage
from trivium.recipe.evaluation import EvaluateStage
from trivium.recipe.lines import Lines
from trivium.recipe.look import Look
from trivium.recipe.models import Recipe
from trivium.recipe.parallel import AUTO
from trivium.recipe.training import TrainingStage

SHORT = 1000.0
"""Device-hours below which a run is rarely interrupted."""


@dataclass(frozen=True)
class Phase:
    """One stage on the cluster. Bands are of hours, US dollars and kWh; `devices` are those it uses and pays for."""

    stage: str
    kind: str
    devices: int = 0
    cost: Cost | None = None
    found: search.Found | None = None
    config: ModelConfig | None = None
    """Of the model that is trained."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Of the whole stage by cause, at the roofline."""
    doubts: tuple[Doubt, ...] = ()
    hours: Band = NONE
    dollars: Band | None = None
    energy: Band | None = None
    note: str = ""


@dataclass(frozen=True)
class Project:
    """All stages, and what they come to."""

    recipe: str
    cluster: Cluster
    phases: tuple[Phase, ...]

    @property
    def hours(self) -> Band:
        return total(phase.hours for phase in self.phases)

    @property
    def dollars(self) -> Band | None:
        found = [phase.dollars for phase in self.phases if phase.dollars is not None]
        return total(found) if found else None

    @property
    def energy(self) -> Band | None:
        found = [phase.energy for phase in self.phases if phase.energy is not None]
        return total(found) if found else None

    @property
    def carbon(self) -> Band | None:
        """kg of CO2."""
        return None if self.energy is None else self.energy * doubts()["carbon"].band


def project(recipe: Recipe, cluster: Cluster, characters: Mapping[str, int] | None = None) -> Project:
    """Every stage of `recipe` on `cluster`. RecipeError where a stage has no legal layout, or fits in none."""
    look = Look(recipe, Lines())
    costs = {cost.stage: cost for cost in estimate(recipe, None, characters)}
    phases = tuple(_phase(look, name, cluster, costs[name]) for name in recipe.stages)
    return Project(recipe.name, cluster, phases)


def _phase(look: Look, name: str, cluster: Cluster, cost: Cost) -> Phase:
    stage = look.recipe.stages[name]
    if isinstance(stage, TrainingStage):
        return _training(look, name, stage, cluster, cost)
    if isinstance(stage, EvaluateStage):
        return _evaluation(look, name, stage, cluster, cost)
    what = "on processors" if stage.kind in ("data", "tokenizer", "synthesize") else ""
    return Phase(name, stage.kind, cost=cost, note=what)


def _training(look: Look, name: str, stage: TrainingStage, cluster: Cluster, cost: Cost) -> Phase:
    config, context = model_of(look, name), look.context(stage)
    if config is None or context is None:
        return Phase(name, stage.kind, cost=cost, note=cost.note)
    try:
        found = lay_out(look, stage, config, context, cluster)
    except RecipeError as error:
        raise RecipeError(f"{name}: {error.what}", where=f"--on {cluster}", fix=error.fix) from None
    if cost.tokens is None:
        return Phase(name, stage.kind, found.cluster.count, cost, found, config, note=cost.note)
    note = _said(cost.note, stage, found.winner.shape)
    each = stage.batch * context * stage.rows_per_item()
    steps = cost.tokens / each
    seconds = {cause: steps * stage.rows_per_item() * one for cause, one in found.winner.step.parts.items()}
    bands = [doubts()["practice"]]
    if stage.compile != "off":
        seconds["compiling"] = compiling.SECONDS
    if isinstance(stage, OnlineStage) and stage.rollout_server is None:
        seconds["generation"] = _writing(
            config,
            found.cluster,
            stage.batch // found.cluster.count or 1,
            steps * stage.max_new_tokens / stage.updates,
        )
        bands.append(doubts()["decode"])
    return _counted(
        Phase(name, stage.kind, found.cluster.count, cost, found, config, seconds, note=note), cluster
    )


def _said(note: str, stage: TrainingStage, shape: roofline.Shape) -> str:
    """`note`, and what the recipe has to say for a run to lie as planned: with `parallel: auto` nothing."""
    if stage.parallel == AUTO:
        return note
    missing = []
    rows = shape.batch // (shape.parallel.data * shape.parallel.shard)
    if stage.parallel.ranks == 1 and (shape.parallel.ranks > 1 or shape.micro != rows or shape.recompute):
        missing.append("`parallel: auto`")
    elif stage.micro_batch is None and shape.micro != rows:
        missing.append(f"`micro_batch: {shape.micro}`")
    if stage.parallel.ranks > 1 and shape.recompute and stage.recompute != "blocks":
        missing.append("`recompute: blocks`")
    told = f"planned with {' and '.join(missing)}, which the recipe does not say" if missing else ""
    return "; ".join(part for part in (note, told) if part)


def _writing(config: ModelConfig, cluster: Cluster, rows: int, tokens: float) -> float:
    """Seconds in which `rows` rows at once get `tokens` tokens each: weights and the cache are read for each token of all."""
    read = 2 * flops.parameters(config) + memory.written(config, rows, config.context, bf16=True) / 2
    return tokens * (read / cluster.accelerator.bandwidth + config.layers * 10 * roofline.START)


def _evaluation(look: Look, name: str, stage: EvaluateStage, cluster: Cluster, cost: Cost) -> Phase:
    """One process, one device: what is read in rows, what is written token by token, 32 replies at once."""
    config = model_of(look, stage.model)
    if config is None or cost.flops is None:
        return Phase(name, stage.kind, cost=cost, note=cost.note)
    device = cluster.accelerator
    models = len(dict.fromkeys((stage.model, *stage.compare, *([stage.baseline] if stage.baseline else []))))
    replies = sum(suite.items * suite.asked * suite.max_new_tokens for suite in stage.suites if suite.writes)
    seconds = {
        "reading": cost.flops / (device.peak * device.reach),
        "writing": models * _writing(config, Cluster(device, 1), 32, replies / 32),
    }
    note, held = cost.note, memory.FLOAT * flops.parameters(config)
    if held > search.ROOM * device.memory:
        note = (
            f"{name} does not fit: it runs on one device, and its weights are {held / 2**30:,.0f} GiB; {note}"
        )
    return _counted(Phase(name, stage.kind, 1, cost, seconds=seconds, note=note), cluster)


def _counted(phase: Phase, cluster: Cluster) -> Phase:
    """`phase` with its bands: the roofline's seconds over each doubt."""
    device, known = cluster.accelerator, doubts()
    spent: dict[str, Band] = {}
    for cause, seconds in phase.seconds.items():
        doubt = known["decode" if cause in ("generation", "writing") else "practice"]
        spent[doubt.name] = total([spent.get(doubt.name, NONE), exactly(seconds) * doubt.band.inverse()])
    hours = total(spent.values()) * (1 / 3600)
    goodput = known["goodput_short"]
    if hours.expected * phase.devices > SHORT and phase.cost is not None and phase.cost.parameters:
        goodput = replace(known["goodput"], band=failures.goodput(phase.cost.parameters, phase.devices))
    hours = hours * goodput.band.inverse()
    used = (*(known[name] for name in spent), goodput)
    dollars = None if device.price is None else hours * phase.devices * device.price
    energy = None
    if device.watts is not None:
        energy = hours * (phase.devices * device.watts / 1000) * known["power"].band * known["site"].band
    return Phase(**{**vars(phase), "hours": hours, "dollars": dollars, "energy": energy, "doubts": used})
