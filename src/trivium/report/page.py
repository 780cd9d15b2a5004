"""A run's report: printed with rich, and as one HTML page without scripts or links to elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment

from trivium.report.table import gate_lines, lines, phases, source_lines


def show(report: Mapping[str, Any]) -> None:
    """Prints the tables."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if report["models"]:
        table = Table("", title=f"{report['recipe']}: what each phase is worth", title_justify="left")
        for name in report["models"]:
            table.add_column(name, justify="right")
        for line in lines(report):
            cells = [Text(cell, "bold green" if i == line.best else "") for i, cell in enumerate(line.cells)]
            table.add_row(line.label, *cells)
        console.print(table)
    if report["phases"]:
        table = Table(
            "phase",
            "length",
            "held-out loss or reward",
            "speed",
            "minutes",
            title="the phases",
            title_justify="left",
        )
        for phase in phases(report):
            table.add_row(*phase)
        console.print(table)
    if sources := source_lines(report):
        headings = ("phase", "source", "held-out loss", "share")
        table = Table(*headings, title="held-out loss by source", title_justify="left")
        for row in sources:
            table.add_row(*(Text(str(cell)) for cell in row))
        console.print(table)
    for stage, bound, value, passed in gate_lines(report):
        mark = Text("passed", "green") if passed else Text("FAILED", "bold red")
        console.print(Text(f"gate {stage}: {bound}: {value} ").append(mark))


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
            gates=gate_lines(report),
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
    return {"path": path, "low": low, "high": high, "last": losses[-1], "steps": max(steps)}
