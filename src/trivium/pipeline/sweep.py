"""A recipe run over a grid of values and seeds: which runs those are, what came of each, and whether one of them wins.

Each run is an ordinary one with a name of its own, so that the store shares what they share and a stopped sweep goes on.
Only the training stages that the grid reaches get other seeds: the data, and what stands before them, is the same for all.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Any

from trivium.errors import RecipeError
from trivium.evaluate.statistics import CONFIDENCE, t_quantile
from trivium.pipeline.graph import build
from trivium.recipe.models import TRAINING, Recipe
from trivium.recipe.suites import metric_named

LONGEST = 100
"""Characters of the name of a run."""
LESS = frozenset({"loss", "divergence"})
"""What is better when there is less of it, among what a stage measures on its own held-out items."""


@dataclass(frozen=True)
class Point:
    """One run of a sweep: a place of the grid, and a seed."""

    name: str
    values: dict[str, str]
    """Swept field -> its value, as it was written."""
    seed: int
    overrides: tuple[str, ...]


@dataclass
class Found:
    """What came of a run: what was measured, by `STAGE.METRIC`, or why there is nothing."""

    point: Point
    metrics: dict[str, dict[str, float | None]] = field(default_factory=dict)
    error: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Place:
    """A place of the grid over all of its seeds. Ends of intervals are None where nothing is known."""

    values: dict[str, str]
    seeds: int
    mean: float | None
    low: float | None
    high: float | None
    behind: float | None
    """How far its mean is behind the best one's, on the seeds that both have."""
    beaten: bool
    """Whether the best place is better than this one, and not by chance alone."""


def cut(text: str) -> list[str]:
    """The values of `1e-3,[1,2],a`: at the commas that stand in no bracket and no quotes."""
    values, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        depth += (character in "[{") - (character in "]}") if not quote else 0
        if character == "," and not depth and not quote:
            values.append("")
        else:
            values[-1] += character
    return [value.strip() for value in values]


def axes_of(overrides: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Overrides with one value as they are, and field -> values of the others. RecipeError for a value that is given twice."""
    fixed: list[str] = []
    axes: dict[str, list[str]] = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        values = cut(value) if equals else []
        if len(values) < 2:
            fixed.append(text)
            continue
        if len(set(values)) < len(values) or "" in values or key.strip() in axes:
            raise RecipeError(
                f"the values of `{key.strip()}` are not each given once",
                where=f"-o {text}",
                fix="write each value once, as in -o base.lr=1e-3,2e-3, and each field in one -o",
            )
        axes[key.strip()] = values
    return fixed, axes


def points(
    recipe: Recipe, fixed: Sequence[str], axes: Mapping[str, Sequence[str]], seeds: int
) -> list[Point]:
    """The runs of a sweep, all seeds of a place together. `recipe`: with the fixed overrides, without the swept ones."""
    reached = _reached(recipe, axes)
    found = []
    for values in product(*axes.values()):
        chosen = dict(zip(axes, values, strict=True))
        for seed in range(recipe.seed, recipe.seed + seeds):
            overrides = [*fixed, *(f"{key}={value}" for key, value in chosen.items())]
            if seeds > 1:
                overrides += [f"{stage}.seed={seed}" for stage in reached]
            name = _named(recipe.name, chosen, seed if seeds > 1 else None)
            found.append(Point(name, chosen, seed, (*overrides, f"name={name}")))
    return found


def _reached(recipe: Recipe, axes: Mapping[str, Sequence[str]]) -> list[str]:
    """The training stages whose fields are swept, or that are made from a stage whose are; all, if no field is."""
    graph = build(recipe)
    swept = {key.split(".")[0].split("[")[0] for key in axes} & set(recipe.stages)
    trained = [name for name in graph.order if recipe.stages[name].kind in TRAINING]
    return [name for name in trained if not swept or swept & {name, *graph.ancestors([name])}]


def _named(recipe: str, values: Mapping[str, str], seed: int | None) -> str:
    parts = [f"{key.split('.')[-1]}-{value}" for key, value in values.items()]
    parts += [] if seed is None else [f"seed-{seed}"]
    name = re.sub(r"[^a-z0-9_]+", "-", "--".join(parts).lower().replace(".", "_")).strip("-")
    whole = f"{recipe}--{name}" if name else recipe
    said = hashlib.sha256(repr((sorted(values.items()), seed)).encode()).hexdigest()[:6]
    return f"{whole[:LONGEST]}-{said}" if values else whole


def measured(summary: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """`STAGE.METRIC` -> value, low, high of a run's summary: held-out metrics of training stages, and evaluations."""
    found: dict[str, dict[str, float | None]] = {}
    for phase in summary["phases"]:
        for metric, value in (phase["after"] or {}).items():
            if isinstance(value, int | float):
                found[f"{phase['stage']}.{metric}"] = {"value": float(value), "low": None, "high": None}
    for model, metrics in summary["models"].items():
        for metric, one in metrics.items():
            found[f"{model}.{metric}"] = {end: one[end] for end in ("value", "low", "high")}
    return found


def usual(recipe: Recipe) -> str:
    """The metric that a sweep is judged by if none is named: what the last training stage measures on what it holds out."""
    trained = [name for name in build(recipe).order if recipe.stages[name].kind in TRAINING]
    if not trained:
        raise RecipeError("no stage of the recipe trains, so there is nothing to sweep", where=recipe.name)
    config = recipe.stages[trained[-1]]
    pairs = getattr(type(config), "rows", "") == "pairs"  # the loss is another measure at another beta
    return f"{trained[-1]}.{'accuracy' if pairs else 'loss'}"


def better(metric: str) -> int:
    """+1 if more of `STAGE.METRIC` is better, -1 if less is."""
    name = metric.split(".", 1)[1]
    if name in LESS:
        return -1
    try:
        return metric_named(name).better or 1
    except KeyError:
        return 1


def outcome(found: Sequence[Found], metric: str) -> list[Place]:
    """The places of the grid, the best first; those where nothing was measured last.

    Of several seeds: Student's interval of the mean; a place is beaten if the interval of its paired differences from the
    best (same seeds) lies above 0, at a level divided by their number (Bonferroni), since the best was chosen by looking. Of one
    seed: the evaluation's own interval, which knows nothing of how another seed would have done, so that nothing is beaten.
    """
    sign, grid = better(metric), dict[tuple[str, ...], list[Found]]()
    for one in found:
        grid.setdefault(tuple(one.point.values.values()), []).append(one)
    scores = {
        place: {
            one.point.seed: value
            for one in runs
            if (value := one.metrics.get(metric, {}).get("value")) is not None and math.isfinite(value)
        }
        for place, runs in grid.items()
    }
    known = sorted(
        (place for place in grid if scores[place]), key=lambda place: -sign * _mean([*scores[place].values()])
    )
    level = 1 - (1 - CONFIDENCE) / max(1, len(known) - 1)
    result = []
    for place in [*known, *(place for place in grid if not scores[place])]:
        values, runs = [*scores[place].values()], grid[place]
        low, high = interval(values, CONFIDENCE) if len(values) > 1 else (None, None)
        if len(values) == 1:
            low, high = (
                next(r for r in runs if metric in r.metrics).metrics[metric].get(end)
                for end in ("low", "high")
            )
        shared = [seed for seed in scores[known[0]] if seed in scores[place]] if values else []
        gaps = [sign * (scores[known[0]][seed] - scores[place][seed]) for seed in shared]
        beaten = len(gaps) > 1 and place != known[0] and interval(gaps, level)[0] > 0
        result.append(
            Place(
                runs[0].point.values,
                len(values),
                _mean(values) if values else None,
                *(low, high),
                behind=_mean(gaps) if gaps else None,
                beaten=beaten,
            )
        )
    return result


def verdict(places: Sequence[Place], metric: str) -> str:
    """Which place wins, and whether it does."""
    known = [place for place in places if place.mean is not None]
    if not known:
        return f"no run measured {metric}"
    best, *others = known
    said = ", ".join(f"{key}={value}" for key, value in best.values.items()) or "the recipe as it is"
    level = f"{metric} {best.mean:.4g}"
    if not others:
        return f"{said}: {level}; there is nothing to compare it with"
    even = [place for place in others if not place.beaten]
    if not even:
        return f"{said} wins: {level}, better than each of the other {len(others)} at 95% together"
    if best.seeds < 2:
        return f"{said} is ahead: {level}; with one seed nobody knows whether that is chance: --seeds 3"
    return f"{said} is ahead: {level}, but {len(even)} of the other {len(others)} could be as good: more seeds would tell"


def interval(values: Sequence[float], confidence: float) -> tuple[float, float]:
    """Student's interval of the mean of two values or more."""
    mean, count = _mean(values), len(values)
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1) / count)
    width = t_quantile((1 + confidence) / 2, count - 1) * spread
    return mean - width, mean + width


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
