"""What the stages of a recipe are expected to take on this machine, beside what they took, and what that teaches the next plan.

A lesson is a ratio, minutes taken over minutes planned, of one artifact. Its key is the machine, the kind of the stage and
whether its speed was rehearsed: nothing else of a run is like the next one. The correction of a key is the median of its ratios.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from trivium.errors import DataError
from trivium.files import read_json, write_json
from trivium.pipeline import rehearsal
from trivium.pipeline.contract import Artifact
from trivium.plan.cost import Cost, estimate
from trivium.plan.machine import machine_name
from trivium.plan.rates import Rates
from trivium.recipe.models import Recipe

SPEEDS, LEARNED = "speeds.json", "learned.json"
"""Beside the store."""
LEAST = 0.1
"""Minutes below which a stage teaches nothing: it starts and ends."""
Lessons = dict[str, dict[str, float]]
"""Key -> fingerprint of an artifact -> minutes taken over minutes planned."""


class Lesson(NamedTuple):
    """What one stage's run taught. Minutes."""

    stage: str
    key: str
    planned: float
    took: float

    @property
    def ratio(self) -> float:
        return self.took / self.planned


def forecast(
    recipe: Recipe, store: Path, made: Mapping[str, Artifact], rates: Rates, *, corrected: bool = True
) -> list[Cost]:
    """The cost of every stage here: sizes from the data that is there (`made`), speeds from rehearsals, corrections from runs.

    `rates`: of this machine; `store`: the folder beside which rehearsals and lessons are kept.
    """
    size = "train_characters"
    characters = {name: a.metrics[size] for name, a in made.items() if size in a.metrics}
    speeds = rehearsal.known(recipe, store / SPEEDS)
    split = {
        name: (a.metrics["train_items"], a.metrics["heldout_items"])
        for name, a in made.items()
        if "train_items" in a.metrics
    }
    costs = estimate(recipe, rates, characters, speeds, split)
    if not corrected:
        return costs
    lessons = read_lessons(store / LEARNED)
    return [_corrected(cost, lessons.get(_key(cost, cost.stage in speeds), {})) for cost in costs]


def compared(
    recipe: Recipe, store: Path, made: Mapping[str, Artifact], rates: Rates, *, corrected: bool = True
) -> list[Lesson]:
    """Plan beside actual, of every stage that has run and has planned minutes."""
    speeds = rehearsal.known(recipe, store / SPEEDS)
    return [
        Lesson(
            cost.stage,
            _key(cost, cost.stage in speeds),
            cost.minutes,
            made[cost.stage].record["seconds"] / 60,
        )
        for cost in forecast(recipe, store, made, rates, corrected=corrected)
        if cost.minutes and cost.stage in made
    ]


def learn(recipe: Recipe, store: Path, made: Mapping[str, Artifact], rates: Rates) -> list[Lesson]:
    """Keeps what the stages that have run teach, each artifact once; returns it. DataError where nothing has run long enough."""
    found = [
        one
        for one in compared(recipe, store, made, rates, corrected=False)
        if max(one.planned, one.took) >= LEAST
    ]
    if not found:
        raise DataError(
            f"no stage of {recipe.name} has run here that took {LEAST:g} minutes and that the plan can count",
            fix="run the recipe first: trivium run",
        )
    lessons = read_lessons(store / LEARNED)
    for one in found:
        lessons.setdefault(one.key, {})[made[one.stage].fingerprint] = one.ratio
    write_json(store / LEARNED, lessons)
    return found


def read_lessons(path: Path) -> Lessons:
    """What was learned; nothing where the file is missing or damaged: it can be learned again from the store."""
    try:
        found: Any = read_json(path)
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {
        key: {
            name: float(ratio)
            for name, ratio in ratios.items()
            if isinstance(ratio, int | float) and ratio > 0
        }
        for key, ratios in found.items()
        if isinstance(ratios, dict)
    }


def _key(cost: Cost, rehearsed: bool) -> str:
    return f"{machine_name()}, {cost.kind}, {'rehearsed' if rehearsed else 'assumed'}"


def _corrected(cost: Cost, ratios: Mapping[str, float]) -> Cost:
    if cost.minutes is None or not ratios:
        return cost
    factor = statistics.median(ratios.values())
    note = f"minutes x {factor:.2g}, as {len(ratios)} earlier {'run' if len(ratios) == 1 else 'runs'} here taught"
    return replace(cost, minutes=cost.minutes * factor, note=", ".join(p for p in (cost.note, note) if p))
