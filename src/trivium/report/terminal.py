"""A run's report on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from trivium.report.smaller import SMALLER, SmallerLine, smaller_lines
from trivium.report.table import PLANNED, Line, gate_lines, lines, phases, planned_lines, source_lines

LABEL = 24
"""Columns that the names of rows need at least: with fewer they stand above their figures."""


def figures(
    heading: str, names: Sequence[str], rows: Sequence[Line], width: int, title: str = ""
) -> list[Any]:
    """A row for each line and a column for each name, of figures that are never broken inside.

    What a figure is followed by goes below it. Where the columns leave no room for the labels, these stand above; where that is
    not enough, intervals go below their figures; what is still too wide follows in a block of its own.
    """
    for breaks in (("], ",), ("], ", " [")):
        cells = [[_broken(cell, breaks) for cell in row.cells] for row in rows]
        wide = max(len(part) for row in [names, *cells] for cell in row for part in cell.split("\n"))
        marked = [
            [Text(cell, "bold green" if place == row.best else "") for place, cell in enumerate(shown)]
            for row, shown in zip(rows, cells, strict=True)
        ]
        if LABEL + 4 + len(names) * (wide + 3) <= width:
            return [_beside(heading, names, rows, marked, title)]
        if len(names) * (wide + 2) - 2 <= width:
            break
    each = max(1, (width + 2) // (wide + 2))
    said: list[Any] = [Text(title, "italic")] if title else []
    for begin in range(0, len(names), each):
        columns = slice(begin, begin + each)
        said.append(_across([Text(name, "bold") for name in names[columns]], wide))
        for row, shown in zip(rows, marked, strict=True):
            said += [Text(row.label), _across(shown[columns], wide)]
    return said


def _broken(cell: str, before: Sequence[str]) -> str:
    for mark in before:
        cell = cell.replace(mark, mark.replace(" ", "\n"))
    return cell


def _beside(
    heading: str, names: Sequence[str], rows: Sequence[Line], marked: Sequence[Sequence[Text]], title: str
) -> Table:
    table = Table(heading, title=title or None, title_justify="left")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for row, shown in zip(rows, marked, strict=True):
        table.add_row(row.label, *shown)
    return table


def _across(cells: Sequence[Text], wide: int) -> Table:
    line = Table.grid(padding=(0, 2, 0, 0))
    for _ in cells:
        line.add_column(width=wide, justify="right", no_wrap=True)
    line.add_row(*cells)
    return line


def show(report: Mapping[str, Any]) -> None:
    """Prints the tables."""
    console = Console(highlight=False)
    if report["models"]:
        title = f"{report['recipe']}: what each phase is worth"
        console.print(*figures("", list(report["models"]), lines(report), console.width, title), sep="\n")
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
        console.print(*_smaller(smaller, console.width), sep="\n")
    marks = {
        "passed": ("passed", "green"),
        "failed": ("FAILED", "bold red"),
        "undecided": ("UNDECIDED", "bold yellow"),
    }
    for gate in gate_lines(report):
        text = Text(f"gate {gate.stage}: {gate.bound}: {gate.value} ").append(Text(*marks[gate.result]))
        console.print(text.append(f" {gate.reason}") if gate.reason else text)


def _smaller(rows: Sequence[SmallerLine], width: int) -> list[Any]:
    """One table, and a line for each output that says what formats are in it."""
    cells = [Line(row.name, list(row[1:-1]), None) for row in rows]
    table = figures("", SMALLER[1:-1], cells, width, "what smaller files cost, on held-out data")
    return [*table, *(Text(f"{row.name}: {row.mix}", "dim") for row in rows if row.mix)]


WIDE = 104
"""Columns of a terminal from which on the table of phases holds everything."""


def _phases(report: Mapping[str, Any], width: int) -> list[Any]:
    """The table of phases; on a narrow terminal with the figures alone, and the rest in a line for each phase."""
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
