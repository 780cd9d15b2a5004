"""Training stages of a recipe that were stopped, or run now: what their checkpoints stand on, before they are artifacts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trivium.pipeline.contract import Artifact, Registry
from trivium.pipeline.fingerprint import fingerprint, identify
from trivium.pipeline.graph import build
from trivium.pipeline.record import read
from trivium.pipeline.store import Store
from trivium.recipe.models import TRAINING, Recipe

STEP = "step-"
VOCABULARIES = ("init", "tokenizer", "teacher")
"""Roles of which the first that a stage has brings its tokenizer, as `trivium.pipeline.training.start` goes by them."""


def unfinished(
    recipe: Recipe, registry: Registry, folder: Path, store: Store
) -> tuple[dict[str, Artifact], int]:
    """Fingerprint -> each training stage of the recipe that has checkpoints and no artifact; and how many other stages' work lies
    in the store, of which nobody knows what they read.

    `path` of each is where its tokenizer is, and `metrics` are {"checkpoints": their steps}.
    """
    graph = build(recipe)
    found = {}
    for name, identity in identify(recipe, graph, registry, folder).items():
        print_, kind = fingerprint(identity), recipe.stages[name].kind
        steps = checkpoints(store.work(print_))
        inputs: dict[str, str] = identity["inputs"]
        start = next((inputs[role] for role in VOCABULARIES if role in inputs), "")
        if kind not in TRAINING or not steps or store.has(print_) or not store.has(start):
            continue
        record: dict[str, Any] = {
            **{
                "kind": kind,
                "stage": name,
                "recipe": recipe.name,
                "fingerprint": print_,
                "identity": identity,
            },
            "inputs": {parent: inputs[role] for role, parent in graph.roles[name].items()},
            "metrics": {"checkpoints": steps},
        }
        found[print_] = Artifact(read(store.path(start)).path, record)
    others = [
        work for work in (store.root / "work").glob("*") if work.name not in found and checkpoints(work)
    ]
    return found, len(others)


def checkpoints(work: Path) -> list[int]:
    """The steps of the checkpoints in a stage's work, in order."""
    places = (work / "checkpoints").glob(f"{STEP}*")
    steps = (place.name.removeprefix(STEP) for place in places)
    return sorted(int(step) for step in steps if step.isdigit())
