"""What every page has: the place it looks at, its head, its tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nicegui import run, ui

from trivium.pipeline.store import Store
from trivium.report.runs import EVENTS, RunLog

SECONDS = 2.0
"""Between two looks at what a run wrote."""


@dataclass
class Place:
    """What the app looks at, and the logs that it has read so far."""

    runs: Path
    store: Store
    logs: dict[str, RunLog] = field(default_factory=dict)

    def log(self, name: str) -> RunLog:
        """The log of a run, read as far as it was read before. KeyError if there is no such run."""
        if not (self.runs / name / EVENTS).is_file() or "/" in name or name.startswith("."):
            raise KeyError(name)
        return self.logs.setdefault(name, RunLog(self.runs / name))

    async def read(self, logs: Sequence[RunLog]) -> None:
        """Reads logs as far as they go. Long ones take seconds: the page is there before, with a sign that it waits."""
        await ui.context.client.connected()
        with ui.row() as waiting:
            ui.spinner()
            ui.label("reading what the run wrote")
        for log in logs:
            await run.io_bound(log.refresh)
        waiting.delete()


def frame(title: str) -> None:
    """The head of every page."""
    dark = ui.dark_mode(None)
    with ui.header().classes("items-center q-py-xs"):
        ui.link("Trivium", "/").classes("text-white text-weight-bold no-underline")
        ui.label(title)
        ui.space()
        for label, where in (
            ("Runs", "/"),
            ("Compare", "/compare"),
            ("Sweeps", "/sweeps"),
            ("Chat", "/chat"),
            ("Store", "/store"),
        ):
            ui.link(label, where).classes("text-white")
        ui.button(icon="contrast", on_click=dark.toggle).props("flat round color=white").tooltip(
            "light or dark"
        )


def missing(what: str) -> None:
    ui.label(what).classes("text-negative")


def table(columns: tuple[str, ...], cells: list[tuple[Any, ...]], **props: Any) -> Any:
    """A plain table of text; the first column to the left, the others as they come."""
    named = [
        {
            "name": str(n),
            "label": name,
            "field": str(n),
            "align": "left" if n == 0 else "right",
            "sortable": True,
        }
        for n, name in enumerate(columns)
    ]
    lines = [{"id": nth, **{str(n): cell for n, cell in enumerate(row)}} for nth, row in enumerate(cells)]
    return (
        ui.table(columns=named, rows=lines, row_key="id", **props)
        .classes("w-full")
        .props("flat dense wrap-cells")
    )
