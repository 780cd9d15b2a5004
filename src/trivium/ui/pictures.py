"""Charts and graphs as the page's libraries take them: options of ECharts, text of Mermaid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trivium.report import data
from trivium.report.curves import smoothed, thinned
from trivium.report.runs import CACHED, DONE, FAILED, RUNNING, WAITING, RunLog, Series, Stage

COLOURS = {DONE: "#2e7d32", CACHED: "#558b2f", RUNNING: "#1565c0", FAILED: "#c62828", WAITING: "#757575"}
AXES = {"step": "step", "tokens": "tokens", "time": "minutes since the first step"}


def places(series: Series, axis: str, tokens_per_step: float | None) -> np.ndarray[Any, Any]:
    """Where the values of a curve stand on an axis: steps, tokens read, or minutes. (n,)."""
    if axis == "time":
        times = np.array(series.times)
        return (times - times[0]) / 60 if len(times) else times
    steps = np.array(series.steps)
    return steps * (tokens_per_step or 1.0) if axis == "tokens" else steps


def chart(
    curves: Mapping[str, tuple[Series, float | None]], *, metric: str, axis: str, smoothing: float, log: bool
) -> dict[str, Any]:
    """Curves by name, with the tokens of a step; held-out ones are drawn with their points. Thinned where there are many."""
    drawn = []
    for name, (series, tokens_per_step) in curves.items():
        x, y = places(series, axis, tokens_per_step), smoothed(np.array(series.values), smoothing)
        x, y = thinned(x, y)
        if log:
            x, y = x[y > 0], y[y > 0]
        drawn.append(
            {
                "name": name,
                "type": "line",
                "showSymbol": len(x) < 40,
                "data": np.stack([x, y], axis=1).tolist(),
                "lineStyle": {"width": 1.5},
            }
        )
    return {
        "animation": False,
        "legend": {"top": 0, "type": "scroll"},
        "tooltip": {"trigger": "axis"},
        "grid": {"left": 70, "right": 20, "top": 40, "bottom": 70},
        "xAxis": {
            "type": "value",
            "name": AXES[axis],
            "nameLocation": "middle",
            "nameGap": 28,
            "min": "dataMin",
        },
        "yAxis": {"type": "log" if log else "value", "name": metric, "scale": True},
        "dataZoom": [{"type": "inside"}, {"type": "slider", "height": 18, "bottom": 8}],
        "toolbox": {"feature": {"saveAsImage": {"name": metric}}},
        "series": drawn,
    }


def graph(log: RunLog) -> str:
    """The stages of a run with what each is made from, coloured by their state."""
    lines = ["graph LR"]
    for stage in log.stages.values():
        lines.append(
            f'  {_id(stage.name)}["{stage.name}<br/><small>{stage.kind or "?"}{_how_far(stage)}</small>"]'
        )
        lines += [f"  {_id(name)} --> {_id(stage.name)}" for name in stage.inputs if name in log.stages]
        lines.append(f"  style {_id(stage.name)} stroke:{COLOURS[stage.status]},stroke-width:3px")
    return "\n".join(lines)


def _how_far(stage: Stage) -> str:
    if stage.status == RUNNING and stage.steps:
        return f", {stage.step} of {stage.steps}"
    return "" if stage.status in (DONE, CACHED) else f", {stage.status}"


def ancestry(tree: Mapping[str, Any]) -> str:
    """A lineage (as `Node.as_dict` gives it) as a graph down to the sources and their licences."""
    lines, seen = ["graph TD"], set()

    def add(node: Mapping[str, Any]) -> None:
        name = f"a{node['fingerprint'][:12]}"
        if name in seen:
            return
        seen.add(name)
        lines.append(
            f'  {name}["{node["stage"]}<br/><small>{node["kind"]}, {node["fingerprint"][:12]}</small>"]'
        )
        for nth, source in enumerate(node.get("sources", ())):
            said = _plain(f"{source.get('kind', '?')}: {source.get('license') or 'licence unknown'}")
            lines.append(f'  {name}s{nth}(["{said}"]) --> {name}')
        for parent in node["inputs"]:
            add(parent)
            lines.append(f"  a{parent['fingerprint'][:12]} --> {name}")

    add(tree)
    return "\n".join(lines)


def waterfall(steps: Sequence[data.Step]) -> dict[str, Any]:
    """Documents that each step kept and dropped, from the first on top."""
    names = [step.name for step in steps][::-1]
    kept = [step.documents_out for step in steps][::-1]
    dropped = [step.documents_in - step.documents_out for step in steps][::-1]
    common = {"type": "bar", "stack": "documents"}
    return {
        "animation": False,
        "legend": {},
        "tooltip": {"trigger": "axis", "axisPointer": {"type": "shadow"}},
        "grid": {"left": 120, "right": 30, "top": 30, "bottom": 30},
        "xAxis": {"type": "value", "name": "documents"},
        "yAxis": {"type": "category", "data": names},
        "series": [
            {**common, "name": "kept", "data": kept, "itemStyle": {"color": "#2e7d32"}},
            {**common, "name": "dropped", "data": dropped, "itemStyle": {"color": "#ef6c00"}},
        ],
    }


def _id(name: str) -> str:
    return "s_" + name.replace("-", "_")


def _plain(text: str) -> str:
    """Nothing that Mermaid or HTML reads as its own: these words come from recipes and files."""
    return "".join(character if character.isalnum() or character in " .:,-/+_" else " " for character in text)
