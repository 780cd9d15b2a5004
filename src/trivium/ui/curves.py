"""Curves of one run, or of several over each other: a chart for each measure, over steps, tokens, FLOPs or time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from nicegui import ui

from trivium.report.curves import smoothed, thinned
from trivium.report.runs import RunLog, Series, Stage
from trivium.ui import parts

AXES = {"step": "step", "tokens": "tokens", "flops": "FLOPs", "time": "minutes since the first step"}
MEASURES = {
    "loss": ("loss (nats)", 1.0),
    "lr": ("learning rate", 1.0),
    "grad_norm": ("gradient norm", 1.0),
    "tokens_per_second": ("tokens/s", 1.0),
    "mfu": ("utilisation (% of the matmul peak)", 100.0),
    "memory": ("memory (GB)", 1e-9),
}
"""Measure -> (title with its unit, what a value is multiplied by). These are shown unless others are chosen."""
POINTS = 800
"""Of a curve, in a chart of half a screen; of each of several, half as many: a browser draws them one by one."""
GRID = "display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 430px), 1fr)); gap: 8px"


def measure(metric: str) -> str:
    """The chart that a curve stands in: `held-out loss of books` in that of `loss`."""
    return metric.removeprefix("held-out ").split(" of ")[0]


def places(series: Series, axis: str, stage: Stage) -> np.ndarray[Any, Any]:
    """Where the values of a curve stand on an axis: steps, tokens read, FLOPs, minutes. (n,), NaN where it is not known."""
    steps, times = np.array(series.steps), np.array(series.times)
    if axis == "time":
        first = min((s.times[0] for s in stage.curves.values() if s.times), default=0.0)
        return (times - first) / 60
    each = {"step": 1.0, "tokens": stage.tokens_per_step, "flops": stage.flops_per_step}[axis]
    return steps * (each or np.nan)


def chart(
    curves: Sequence[tuple[str, Series, Stage]],
    title: str,
    *,
    scale: float,
    axis: str,
    smoothing: float,
    log: bool,
) -> dict[str, Any]:
    """The options of a chart of (name, curve, its stage). Few points are drawn as points, many are thinned."""
    drawn = []
    points = POINTS if len(curves) < 3 else POINTS // 2
    for name, series, stage in curves:
        x, y = thinned(
            places(series, axis, stage), smoothed(np.array(series.values), smoothing) * scale, points
        )
        if log:
            x, y = x[y > 0], y[y > 0]
        data = [[float(f"{a:.6g}"), float(f"{b:.5g}")] for a, b in zip(x, y, strict=True)]
        held_out = "held-out" in name
        look = {"width": 1.5, "type": "dashed" if held_out else "solid"}
        drawn.append(
            {
                "name": name,
                "type": "line",
                "showSymbol": held_out or len(x) < 40,
                "data": data,
                "lineStyle": look,
            }
        )
    nothing = "" if any(one["data"] for one in drawn) else f": nothing over {AXES[axis]}"
    return {
        "animation": False,
        "title": {"text": title + nothing, "textStyle": {"fontSize": 13}, "left": 8, "top": 0},
        "legend": {"top": 22, "type": "scroll", "show": len(drawn) > 1},
        "tooltip": {"trigger": "axis"},
        "grid": {"left": 62, "right": 20, "top": 54, "bottom": 62},
        "xAxis": {
            "type": "value",
            "name": AXES[axis],
            "nameLocation": "middle",
            "nameGap": 26,
            "min": "dataMin",
            "max": "dataMax",
        },
        "yAxis": {"type": "log" if log else "value", "scale": True},
        "dataZoom": [
            {"type": "inside"},
            {"type": "slider", "height": 14, "bottom": 6, "showDataShadow": False},
        ],
        "toolbox": {"top": 0, "feature": {"saveAsImage": {"name": title}}},
        "series": drawn,
    }


class Curves:
    """The controls and the charts. Call it when there is more in the logs."""

    def __init__(self, logs: Sequence[RunLog]) -> None:
        self.logs = logs
        self.charts: dict[str, Any] = {}
        self.setting = False
        """Whether options are being set: what they change is drawn once, when all are."""
        with ui.row().classes("items-center w-full") as self.controls:
            self.stage = ui.select([], label="stage", on_change=self)
            self.axis = ui.select(AXES, value="step", label="x", on_change=self.draw).classes("min-w-32")
            ui.label("smoothing")
            self.smoothing = ui.slider(min=0, max=0.99, step=0.01, value=0, on_change=self.draw).classes(
                "w-32"
            )
            self.log = ui.switch("log y", on_change=self.draw)
            self.measures = ui.select([], label="measures", value=[], multiple=True, on_change=self.draw)
            self.measures.classes("grow").props("use-chips dense")
        self.nothing = ui.label("No stage has trained yet.")
        self.area = ui.element("div").classes("w-full").style(GRID)
        self()

    def __call__(self, _: Any = None) -> None:
        if self.setting:
            return
        self.setting = True
        trained = list(
            dict.fromkeys(name for log in self.logs for name, stage in log.stages.items() if stage.curves)
        )
        self.controls.set_visibility(bool(trained))
        self.nothing.set_visibility(not trained)
        if trained != self.stage.options:
            self.stage.set_options(trained, value=self.stage.value or trained[-1])
        there = list(self.there())
        if there != self.measures.options:
            chosen = [name for name in self.measures.value or MEASURES if name in there]
            self.measures.set_options(there, value=chosen or there[:1])
        self.setting = False
        self.draw()

    def there(self) -> dict[str, list[tuple[str, Series, Stage]]]:
        """Measure -> its curves in the chosen stage, called by their metric, or by the run where there are several."""
        found: dict[str, list[tuple[str, Series, Stage]]] = {}
        for log in self.logs:
            stage = log.stages.get(self.stage.value)
            if stage is None:
                continue
            for metric, series in sorted(stage.curves.items(), key=lambda one: "held-out" in one[0]):
                of = measure(metric)
                name = (
                    metric if len(self.logs) == 1 else log.name if metric == of else f"{log.name}, {metric}"
                )
                found.setdefault(of, []).append((name, series, stage))
        return found

    def draw(self, _: Any = None) -> None:
        if self.setting:
            return
        curves, shown = self.there(), list(self.measures.value or ())
        if list(self.charts) != shown:
            self.area.clear()
            with self.area:
                self.charts = {name: parts.chart({}).style("height: 300px") for name in shown}
        for name, drawn in self.charts.items():
            title, scale = MEASURES.get(name, (name, 1.0))
            drawn.options.clear()
            drawn.options.update(
                chart(
                    curves.get(name, ()),
                    title,
                    scale=scale,
                    axis=self.axis.value,
                    smoothing=self.smoothing.value,
                    log=self.log.value,
                )
            )
            drawn.update()
