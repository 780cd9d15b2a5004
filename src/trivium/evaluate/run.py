"""All suites on all models of an evaluate stage, and the gates."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trivium.evaluate.subject import Subject
from trivium.evaluate.suites import SUITES
from trivium.recipe.evaluation import METRICS, EvaluateStage
from trivium.types import Emit


def evaluate(
    config: EvaluateStage,
    folders: Mapping[str, Path],
    emit: Emit,
    contaminated: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Results as written to `results.json`: `folders` gives the artifact of every model and data stage by name.

    {"models": {name: {metric: value}}, "items": {metric: count}, "gates": {...}, "passed": bool, "tested": name,
    "samples": {suite: {model: [{"prompt", "reply"}]}}, "contaminated": {data stage: items}}
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
    contaminated = {name: count for name, count in (contaminated or {}).items() if count}
    gates = judge(config, models[config.model], contaminated)
    passed = all(gate["passed"] for gate in gates.values())
    return {
        "models": models,
        "items": items,
        "gates": gates,
        "passed": passed,
        "samples": samples,
        "tested": config.model,
        "contaminated": contaminated,
    }


def judge(
    config: EvaluateStage, metrics: Mapping[str, float], contaminated: Mapping[str, int] | None = None
) -> dict[str, dict[str, Any]]:
    """Each gate with its bound, the value found, and whether it holds. A metric that was not measured fails its gate, and
    so does one of a suite whose data is contaminated: it would measure memory."""
    result = {}
    unclean = {
        metric
        for suite in config.suites
        if (contaminated or {}).get(suite.data)
        for metric in METRICS[suite.kind]
    }
    for name, gate in config.gates.items():
        value = metrics.get(name)
        low = gate.min is None or (value is not None and value >= gate.min)
        high = gate.max is None or (value is not None and value <= gate.max)
        passed = value is not None and low and high and name not in unclean
        result[name] = {"min": gate.min, "max": gate.max, "value": value, "passed": passed}
    return result
