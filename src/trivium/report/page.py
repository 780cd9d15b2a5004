"""A run's report: printed with rich, and as one HTML page without scripts or links to elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment

from trivium.report.smaller import HEIGHT as PLOT_HEIGHT
from trivium.report.smaller import SMALLER, SmallerLine, dots, smaller_lines
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
        console.print(*_phases(report, console.width), sep="\n")
    if planned := planned_lines(report):
        table = Table(title="plan beside actual", title_justify="left")
        for heading in PLANNED:
            table.add_column(heading, justify="left" if heading == "stage" else "right")
        for row in planned:
            table.add_row(*(Text(cell) for cell in row))
        console.print(table)
    if sources := source_lines(report):
        headings = ("phase", "source", "held-out loss", "share")
        table = Table(*headings, title="held-out loss by source", title_justify="left")
        for row in sources:
            table.add_row(*(Text(str(cell)) for cell in row))
        console.print(table)
    if smaller := smaller_lines(report):
        console.print(*_smaller(smaller), sep="\n")
    marks = {
        "passed": ("passed", "green"),
        "failed": ("FAILED", "bold red"),
        "undecided": ("UNDECIDED", "bold yellow"),
    }
    for gate in gate_lines(report):
        text = Text(f"gate {gate.stage}: {gate.bound}: {gate.value} ").append(Text(*marks[gate.result]))
        console.print(text.append(f" {gate.reason}") if gate.reason else text)


def _smaller(rows: Sequence[SmallerLine]) -> list[Any]:
    """A table for each stage, and a line for each output that says what formats are in it."""
    from rich.table import Table
    from rich.text import Text

    shown: list[Any] = []
    for stage in dict.fromkeys(row.stage for row in rows):
        own = [row for row in rows if row.stage == stage]
        title = f"{stage}: what smaller files cost, on held-out data"
        table = Table(SMALLER[1], title=title, title_justify="left")
        for heading in SMALLER[2:-1]:
            table.add_column(heading, justify="right", no_wrap=True)
        for row in own:
            table.add_row(*map(Text, row[1:-1]))
        shown += [table, *(Text(f"{row.type}: {row.mix}", "dim") for row in own if row.mix)]
    return shown


WIDE = 104
"""Columns of a terminal from which on the table of phases holds everything."""


def _phases(report: Mapping[str, Any], width: int) -> list[Any]:
    """The table of phases; on a narrow terminal with the figures alone, and the rest in a line for each phase."""
    from rich.table import Table
    from rich.text import Text

    shown, wide = phases(report), width >= WIDE
    table = Table(
        "phase", title="the phases, with their loss or reward on held-out items", title_justify="left"
    )
    numbers = ("tokens", "loss or reward", "tokens/s", "of peak", "minutes")
    for heading in ("steps", *numbers, "computed in") if wide else numbers:
        table.add_column(heading, justify="left" if heading == "computed in" else "right", no_wrap=True)
    for phase in shown:
        cells = (phase.tokens, phase.loss, phase.rate, phase.share, phase.minutes)
        table.add_row(Text(phase.stage), *((phase.steps, *cells, phase.how) if wide else cells))
    rest = (
        [] if wide else [Text(f"{phase.stage}: {phase.steps} steps, {phase.how}", "dim") for phase in shown]
    )
    return [table, *rest]


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
            dots=dots(report),
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
