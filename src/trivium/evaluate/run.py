"""All suites on all models of an evaluate stage, and the gates."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trivium.evaluate.subject import Subject
from trivium.evaluate.suites import SUITES
from trivium.recipe.evaluation import EvaluateStage
from trivium.types import Emit


def evaluate(config: EvaluateStage, folders: Mapping[str, Path], emit: Emit) -> dict[str, Any]:
    """Results as written to `results.json`: `folders` gives the artifact of every model and data stage by name.

    {"models": {name: {metric: value}}, "items": {metric: count}, "gates": {...}, "passed": bool, "tested": name,
    "samples": {suite: {model: [{"prompt", "reply"}]}}}
    """
    names = list(dict.fromkeys([*config.compare, config.model]))
    baseline = (
        Subject.open(config.baseline, folders[config.baseline], config.device) if config.baseline else None
    )
    models: dict[str, dict[str, float]] = {}
    items: dict[str, int] = {}
    samples: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for name in names:
        subject = Subject.open(name, folders[name], config.device)
        metrics: dict[str, float] = {}
        for suite in config.suites:
            emit({"event": "suite", "model": name, "suite": suite.kind})
            measured = SUITES[suite.kind](subject, baseline, folders[suite.data], suite)
            metrics |= measured.metrics
            items |= measured.items
            if measured.samples:
                samples.setdefault(suite.kind, {})[name] = measured.samples
        metrics |= {"file_bytes": subject.file_bytes(), "tokens_per_second": subject.tokens_per_second()}
        models[name] = metrics
    gates = judge(config, models[config.model])
    passed = all(gate["passed"] for gate in gates.values())
    return {
        "models": models,
        "items": items,
        "gates": gates,
        "passed": passed,
        "samples": samples,
        "tested": config.model,
    }


def judge(config: EvaluateStage, metrics: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """Each gate with its bound, the value found, and whether it holds. A metric that was not measured fails its gate."""
    result = {}
    for name, gate in config.gates.items():
        value = metrics.get(name)
        low = gate.min is None or (value is not None and value >= gate.min)
        high = gate.max is None or (value is not None and value <= gate.max)
        passed = value is not None and low and high
        result[name] = {"min": gate.min, "max": gate.max, "value": value, "passed": passed}
    return result
