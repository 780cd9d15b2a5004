"""What a run has to show: the stages' artifacts gathered into one plain report."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from trivium.pipeline.contract import Artifact
from trivium.pipeline.run import StageStatus
from trivium.pipeline.store import Store
from trivium.recipe.deployment import SmallerStage
from trivium.recipe.models import TRAINING, Recipe
from trivium.recipe.suites import Verbatim


def history(inputs: Mapping[str, Artifact], store: Store) -> dict[str, Artifact]:
    """`inputs` and everything they were made from, by stage name."""
    found = dict(inputs)
    queue = list(inputs.values())
    while queue:
        for name, fingerprint in queue.pop().inputs.items():
            if name not in found and (artifact := store.get(fingerprint)) is not None:
                found[name] = artifact
                queue.append(artifact)
    return found


def current(store: Store, statuses: Iterable[StageStatus]) -> dict[str, Artifact]:
    """What the store holds now for a recipe, by stage name: nothing stale."""
    found = {status.name: store.get(status.fingerprint) for status in statuses if status.cached}
    return {name: artifact for name, artifact in found.items() if artifact is not None}


def summary(recipe: Recipe, artifacts: Mapping[str, Artifact]) -> dict[str, Any]:
    """The report of a run as plain JSON values: results by model, phases, gates, data, environment.

    Models stand in the order of the recipe's stages; a metric measured twice keeps the first value.
    """
    present = {name: artifacts[name] for name in recipe.stages if name in artifacts}
    models: dict[str, dict[str, Any]] = {}
    gates: dict[str, Any] = {}
    samples: dict[str, Any] = {}
    corrected: dict[str, dict[str, Any]] = {}
    for name, artifact in present.items():
        if artifact.kind == "evaluate":
            results = json.loads((artifact.path / "results.json").read_text(encoding="utf-8"))
            for model, metrics in results["models"].items():
                corrected[model] = {
                    **{
                        n: c
                        for n, c in results.get("corrected", {}).get(model, {}).items()
                        if n not in models.get(model, {})
                    },
                    **corrected.get(model, {}),
                }
                models[model] = {**metrics, **models.get(model, {})}
            gates[name] = {
                "tested": results["tested"],
                "baseline": results["baseline"],
                "against_baseline": results["against_baseline"],
                "gates": results["gates"],
                "passed": results["passed"],
                "judges": results.get("judges", {}),
            }
            for suite, replies in results["samples"].items():
                samples[suite] = {**samples.get(suite, {}), **replies}
    return {
        "recipe": recipe.name,
        "seed": recipe.seed,
        "models": {name: models[name] for name in recipe.stages if name in models},
        "corrected": corrected,
        "gates": gates,
        "phases": [_phase(name, artifact) for name, artifact in present.items() if artifact.kind in TRAINING],
        "data": {
            name: json.loads((artifact.path / "account.json").read_text(encoding="utf-8"))
            for name, artifact in present.items()
            if artifact.kind in ("data", "synthesize")
        },
        "smaller": {
            name: {key: present[name].metrics[key] for key in ("full", "outputs")} | {"model": stage.model}
            for name, stage in recipe.stages.items()
            if isinstance(stage, SmallerStage) and name in present
        },
        "verbatim": [
            row for name in present for row in _verbatim(recipe.stages[name], gates.get(name), models)
        ],
        "seconds": {name: artifact.record["seconds"] for name, artifact in present.items()},
        "environment": next(iter(present.values())).record["environment"] if present else {},
        "samples": samples,
    }


def _verbatim(stage: Any, measured: Any, models: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each suite that looks replies up in the training data: for which licences, and what it found in the tested model."""
    if measured is None:
        return []
    found = models[measured["tested"]]
    rows = []
    for suite in stage.suites:
        if isinstance(suite, Verbatim):
            replies, share = (found.get(suite.named(metric)) for metric in suite.metrics)
            about = {"model": measured["tested"], "tokens": suite.tokens, "licences": list(suite.licences)}
            rows.append({**about, "replies": replies, "share": share})
    return rows


def _phase(name: str, artifact: Artifact) -> dict[str, Any]:
    keep = (
        "parameters",
        "steps",
        "tokens",
        "tokens_per_second",
        "mfu",
        "compiled",
        "precision",
        "before",
        "after",
        "curve",
        "samples",
        "data",
    )
    return {
        "stage": name,
        "kind": artifact.kind,
        "seconds": artifact.record["seconds"],
        **{key: artifact.metrics.get(key) for key in keep},
    }
