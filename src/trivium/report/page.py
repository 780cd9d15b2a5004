"""A run's report as one HTML page without scripts or links to elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment

from trivium.report.smaller import EXPLAINED, SMALLER, dots, ends, smaller_lines
from trivium.report.smaller import HEIGHT as PLOT_HEIGHT
from trivium.report.smaller import WIDTH as PLOT_WIDTH
from trivium.report.table import (
    PLANNED,
    SHOWN,
    gate_lines,
    lines,
    phases,
    planned_lines,
    shown_lines,
    source_lines,
)


def html(report: Mapping[str, Any]) -> str:
    """The page: tables, loss curves, data, samples."""
    template = (Path(__file__).parent / "page.html.j2").read_text(encoding="utf-8")
    return (
        Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
        .from_string(template)
        .render(
            report=report,
            lines=lines(report),
            phases=phases(report),
            sources=source_lines(report),
            planned=planned_lines(report),
            planned_head=PLANNED,
            shown=shown_lines(report),
            shown_head=SHOWN,
            gates=gate_lines(report),
            smaller=smaller_lines(report),
            smaller_head=SMALLER,
            smaller_explained=EXPLAINED,
            dots=dots(report),
            ends=ends(report),
            plot=(PLOT_WIDTH, PLOT_HEIGHT),
            curves=[
                (phase["stage"], curve(phase["curve"]))
                for phase in report["phases"]
                if len(phase["curve"] or []) > 1
            ],
        )
    )


WIDTH, HEIGHT = 360, 140


def curve(points: Sequence[Sequence[float]]) -> dict[str, Any]:
    """A loss curve [(step, loss), ...] as the points of an SVG polyline in a WIDTH x HEIGHT box, with its limits."""
    steps, losses = [p[0] for p in points], [p[1] for p in points]
    low, high = min(losses), max(losses)
    across, up = max(steps) - min(steps) or 1, high - low or 1
    path = " ".join(
        f"{(s - min(steps)) / across * WIDTH:.1f},{(high - v) / up * HEIGHT:.1f}"
        for s, v in zip(steps, losses, strict=True)
    )
    return {
        "path": path,
        "low": low,
        "high": high,
        "last": losses[-1],
        "first": min(steps),
        "steps": max(steps),
    }
