"""What every page has: the place it looks at, its head, its tables."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nicegui import run, ui

from trivium.pipeline.store import Store
from trivium.report.runs import EVENTS, RunLog
from trivium.ui.pictures import GREY, THEME

SECONDS = 2.0
"""Between two looks at what a run wrote."""
TOGETHER = 2
"""Logs that are read at once: five at once on two cores cost a fifth more processor time than two."""
AT_ONCE = 0.3
"""Seconds that a page is kept back for, to be sent with what it shows: a browser draws what comes afterwards much later."""
KEPT = 20
"""Logs that are held in memory as they were read, the ones that were looked at last."""
FIGURE = re.compile(r"([-+−~[]?[\d.,]+.{0,40}|–|)")
"""What a cell of a column of figures is."""
CENTRED = """
const seen = new MutationObserver(centre);
function centre() {
  const node = there.querySelector("g.node")?.getBoundingClientRect(), frame = there.getBoundingClientRect();
  if (node) { there.scrollLeft += node.left + node.width / 2 - frame.left - frame.width / 2; seen.disconnect(); }
}
seen.observe(there, { childList: true });
centre();
"""
"""Scrolls a graph once it is drawn."""
Update = Callable[[], None]
"""What is done when a log has grown."""


@dataclass
class Place:
    """What the app looks at, and the logs that it has read so far."""

    runs: Path
    store: Store
    rollouts: tuple[str, ...] = ()
    """Logs and routers beside those that the store knows."""
    logs: dict[str, RunLog] = field(default_factory=dict)

    def log(self, name: str) -> RunLog:
        """The log of a run, read as far as it was read before. KeyError if there is no such run."""
        if not (self.runs / name / EVENTS).is_file() or "/" in name or name.startswith("."):
            raise KeyError(name)
        self.logs[name] = found = self.logs.pop(name, None) or RunLog(self.runs / name)
        if len(self.logs) > KEPT:
            del self.logs[next(iter(self.logs))]
        return found

    async def look(self, logs: Sequence[RunLog]) -> None:
        """Reads enough of logs for curves to be drawn, pieces of long ones; once they are, `read` reads them whole."""
        for log in logs:
            await run.io_bound(log.look)
            if not log.partly:
                await run.io_bound(log.refresh)

    async def read(self, logs: Sequence[RunLog]) -> None:
        """Reads logs as far as they go; long ones while the browser loads the page, with a sign that it waits."""
        turns = asyncio.Semaphore(TOGETHER)

        async def read(log: RunLog) -> None:
            async with turns:
                await run.io_bound(log.refresh)

        reading = asyncio.gather(*map(read, logs))
        if not (await asyncio.wait([reading], timeout=AT_ONCE))[0]:
            await ui.context.client.connected()
            with ui.row() as waiting:
                ui.spinner()
                ui.label("reading what the run wrote")
            await asyncio.wait([reading])
            waiting.delete()
        await reading  # whose errors are the page's


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
            ("Arena", "/arena"),
            ("Rollouts", "/rollouts"),
            ("Store", "/store"),
        ):
            ui.link(label, where).classes("text-white")
        ui.button(icon="contrast", on_click=dark.toggle).props("flat round color=white").tooltip(
            "light or dark"
        )


def framed(where: str) -> None:
    """A page of another server of ours, which this one serves, too: it has its own script and its own rules."""
    ui.element("iframe").props(f'src="{where}" title="{where.split("#")[0]}"').classes("w-full").style(
        "height: 80vh; border: 0; border-radius: 4px"
    )


def chart(options: dict[str, Any]) -> Any:
    """Options of ECharts."""
    return ui.echart(options, theme=THEME)


def picture(text: str) -> Any:
    """A graph of Mermaid, as large as it has to be to be read; where the page is narrower, its first node is in the middle."""
    config = {"themeVariables": {"lineColor": GREY}, "flowchart": {"useMaxWidth": False}}
    made = ui.mermaid(text, config=config).classes("w-full").style("overflow-x: auto")
    ui.run_javascript(f"const there = getElement({made.id}).$el; {CENTRED}")
    return made


def missing(what: str) -> None:
    ui.label(what).classes("text-negative")


def heading(what: str) -> None:
    ui.label(what).classes("text-subtitle1 text-weight-medium q-mt-md")


def table(columns: Sequence[str], cells: Iterable[Sequence[Any]], **props: Any) -> Any:
    """A plain table of text; columns of figures stand to the right."""
    rows = rows_of(cells)
    figures = {
        str(n)
        for n in range(1, len(columns))
        if any(row[str(n)] for row in rows) and all(FIGURE.fullmatch(str(row[str(n)] or "")) for row in rows)
    }
    named = [
        {
            "name": str(n),
            "label": name,
            "field": str(n),
            "align": "right" if str(n) in figures else "left",
            "sortable": True,
        }
        for n, name in enumerate(columns)
    ]
    made = ui.table(columns=named, rows=rows, row_key="id", **props)
    return made.classes("w-full").props("flat dense wrap-cells")


def rows_of(cells: Iterable[Sequence[Any]]) -> list[dict[str, Any]]:
    """The rows of a `table`."""
    return [{"id": nth, **{str(n): cell for n, cell in enumerate(row)}} for nth, row in enumerate(cells)]
