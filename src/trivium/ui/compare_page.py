"""Runs beside each other: curves overlaid, fields that differ, metrics with their intervals."""

from __future__ import annotations

import json
from typing import Any

from nicegui import ui

from trivium.report.compare import fields, metrics
from trivium.report.runs import RunLog, runs
from trivium.ui.curves import Curves
from trivium.ui.parts import Place, frame, missing, table


def register(place: Place) -> None:
    @ui.page("/compare", title="Trivium: compare")
    async def compare(runs: str = "") -> None:
        frame("Compare")
        await _page(place, [name for name in runs.split(",") if name])


async def _page(place: Place, names: list[str]) -> None:
    there = [path.name for path in runs(place.runs)]
    picker = ui.select(there, value=[name for name in names if name in there], multiple=True, label="runs")
    picker.classes("w-full").props("use-chips")
    picker.on_value_change(lambda event: ui.navigate.to(f"/compare?runs={','.join(event.value)}"))
    for name in names:
        if name not in there:
            missing(f"There is no run {name!r} in {place.runs}.")
    logs = [place.log(name) for name in names if name in there]
    if not logs:
        ui.label("Choose the runs to compare.")
        return
    await place.look(logs)
    curves = Curves(logs)
    if any(log.partly for log in logs):
        await ui.context.client.connected()
        await place.read(logs)
        curves()
    _fields(logs)
    _metrics(logs)


def _fields(logs: list[RunLog]) -> None:
    """What the recipes say otherwise."""
    if len(logs) > 1:
        ui.label("Fields that differ").classes("text-h6")
        found = fields(logs)
        if not found:
            ui.label("none")
            return
        cells = [(path, *(_said(values[log.name]) for log in logs)) for path, values in found.items()]
        table(("field", *(log.name for log in logs)), cells)


def _metrics(logs: list[RunLog]) -> None:
    columns, rows = metrics(logs)
    if columns:
        ui.label("Held out, with intervals; * is the best, where it and the worst are apart").classes(
            "text-h6"
        )
        cells = [
            (row.label, *(f"{cell} *" if n == row.best else cell for n, cell in enumerate(row.cells)))
            for row in rows
        ]
        table(("metric", *columns), cells)


def _said(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
