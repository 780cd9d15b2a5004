"""Sweeps: each run as a line through the values that it was given and what came of it, the places of the grid, the winner."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from nicegui import ui

from trivium.ui.parts import Place, chart, frame, missing, table

ENDING = ".sweep.json"


def register(place: Place) -> None:
    @ui.page("/sweeps", title="Trivium: sweeps")
    def sweeps() -> None:
        frame("Sweeps")
        files = sorted(place.runs.glob(f"*{ENDING}"), key=lambda file: file.stat().st_mtime, reverse=True)
        if not files:
            ui.label(
                "There is no sweep yet: `trivium sweep RECIPE -o base.lr=1e-3,2e-3 --seeds 3` makes one."
            )
        for file in files:
            try:
                told = json.loads(file.read_text(encoding="utf-8"))
                with ui.expansion(f"{told['recipe']}: {told['verdict']}", value=file is files[0]).classes(
                    "w-full"
                ):
                    _one(told)
            except (OSError, ValueError, KeyError, TypeError) as error:
                missing(f"{file.name} cannot be read: {error}")


def _one(told: Mapping[str, Any]) -> None:
    if told["axes"]:
        chart(parallel(told)).classes("w-full").style("height: 360px")
    cells = [
        (
            ", ".join(f"{key}={value}" for key, value in place["values"].items()),
            place["seeds"],
            _number(place["mean"]),
            "" if place["low"] is None else f"{_number(place['low'])} to {_number(place['high'])}",
            _number(place["behind"]),
            "yes" if place["beaten"] else "no",
        )
        for place in told["places"]
    ]
    table(("values", "seeds", told["metric"], "95% interval", "behind the best", "beaten"), cells)
    for run in told["runs"]:
        with ui.row():
            ui.link(run["point"]["name"], f"/run/{run['point']['name']}")
            if run["error"]:
                missing(run["error"])


def parallel(told: Mapping[str, Any]) -> dict[str, Any]:
    """Parallel coordinates: an axis for each swept field, one for the metric, a line for each run that measured it."""
    axes = [
        {"dim": dim, "name": name, "type": "category", "data": list(values)}
        for dim, (name, values) in enumerate(told["axes"].items())
    ]
    measured = {
        "dim": len(axes),
        "name": f"{told['metric']} ({told['better']} is better)",
        "type": "value",
        "scale": True,
    }
    lines = [
        [*run["point"]["values"].values(), found["value"]]
        for run in told["runs"]
        if (found := run["metrics"].get(told["metric"])) and found["value"] is not None
    ]
    values = [line[-1] for line in lines] or [0.0]
    good = ["#1565c0", "#bdbdbd"] if told["better"] == "less" else ["#bdbdbd", "#1565c0"]
    return {
        "parallelAxis": [*axes, measured],
        "parallel": {"left": 60, "right": 160, "top": 50, "bottom": 30},
        "visualMap": {
            "show": False,
            "dimension": len(axes),
            "min": min(values),
            "max": max(values),
            "inRange": {"color": good},
        },
        "series": [{"type": "parallel", "lineStyle": {"width": 2, "opacity": 0.7}, "data": lines}],
    }


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
