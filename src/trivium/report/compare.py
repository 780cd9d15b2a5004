"""Runs beside each other: the fields in which they differ, and what came of it, with intervals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trivium.report.runs import RunLog, differences
from trivium.report.table import Line, lines

REPORT = "report.json"


def report_of(folder: Path) -> dict[str, Any] | None:
    """The report that a run ended with; None where nothing was evaluated, or the file was cut short."""
    try:
        found = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("models"), dict) else None


def fields(logs: Sequence[RunLog]) -> dict[str, dict[str, Any]]:
    """Field -> run -> what its recipe says there (None: nothing), for fields in which any run differs from the first."""
    if not logs:
        return {}
    configs = {log.name: {name: stage.config for name, stage in log.stages.items()} for log in logs}
    first = configs[logs[0].name]
    found: dict[str, dict[str, Any]] = {}
    for config in configs.values():
        for path, one, _ in differences(first, config):
            found.setdefault(path, dict.fromkeys(configs, one))
    for name, config in configs.items():
        for path, _, other in differences(first, config):
            found[path][name] = other
    return found


def metrics(logs: Sequence[RunLog]) -> tuple[list[str], list[Line]]:
    """(`RUN: MODEL`, rows) of all that was measured: one table, so that the best is marked across runs and only if it is one."""
    models: dict[str, Any] = {}
    corrected: dict[str, Any] = {}
    for log in logs:
        report = report_of(log.folder) or {"models": {}}
        for model, measured in report["models"].items():
            models[f"{log.name}: {model}"] = measured
            corrected[f"{log.name}: {model}"] = report.get("corrected", {}).get(model, {})
    return list(models), lines({"models": models, "corrected": corrected})


def losses(log: RunLog) -> dict[str, dict[str, float]]:
    """Stage -> what it ended with: its last `loss` and its last `held-out loss`, as far as there were any."""
    return {
        name: {
            metric: stage.curves[metric].values[-1]
            for metric in ("loss", "held-out loss")
            if metric in stage.curves and len(stage.curves[metric].values)
        }
        for name, stage in log.stages.items()
        if stage.curves
    }
