"""`trivium ui`: a local web app over the folders of runs and the store. It keeps nothing: all is read from them.

Texts of models, documents and recipes reach the page as text (labels and cells), never as markup.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from nicegui import app, ui
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from trivium.console import moment
from trivium.report.runs import glance, runs
from trivium.report.steps import warm_up
from trivium.serve.problems import ApiError
from trivium.serve.process import check_caller
from trivium.ui import chat_page, compare_page, people_page, rollout_page, run_page, store_page, sweep_page
from trivium.ui.parts import SECONDS, Place, frame

PAGES = (run_page, compare_page, sweep_page, chat_page, people_page, rollout_page, store_page)
LOCAL = frozenset({"127.0.0.1", "localhost", "::1"})


class Guard:
    """Answers only who asks for this machine by its own names, from a page of this app: no other site asks through a browser."""

    def __init__(self, inner: ASGIApp, names: frozenset[str]) -> None:
        self.inner, self.names = inner, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
            try:
                check_caller(headers.get(b"host", ""), headers.get(b"origin"), self.names)
            except ApiError as error:
                if scope["type"] == "websocket":
                    await send({"type": "websocket.close", "code": 1008})
                else:
                    await PlainTextResponse(str(error), status_code=403)(scope, receive, send)
                return
        await self.inner(scope, receive, send)


def build(place: Place, names: frozenset[str] = LOCAL) -> None:
    """Registers the pages. `names`: what the address bar may call this machine."""
    app.add_middleware(Guard, names=names)
    for module in PAGES:
        module.register(place)

    @ui.page("/", title="Trivium: runs")
    def index() -> None:
        frame("Runs")
        chosen: list[str] = []
        columns = [
            {"name": name, "label": label, "field": name, "align": align, "sortable": True}
            for name, label, align in (
                ("name", "run", "left"),
                ("state", "state", "left"),
                ("stage", "stage", "left"),
                ("step", "step", "right"),
                ("loss", "loss", "right"),
                ("left", "left", "right"),
                ("made", "stages made", "right"),
                ("last", "last event", "left"),
            )
        ]
        table = ui.table(
            columns=columns, rows=rows(place), row_key="name", selection="multiple", pagination=50
        )
        table.classes("w-full").props("flat dense")
        table.add_slot(
            "body-cell-name",
            '<q-td :props="props"><a class="text-primary" :href="`/run/${props.value}`">{{ props.value }}</a></q-td>',
        )

        def compare() -> None:
            chosen[:] = [row["name"] for row in table.selected]
            ui.navigate.to(f"/compare?runs={','.join(chosen)}")

        with ui.row():
            ui.button("Compare the chosen", on_click=compare).props("flat")
        if not table.rows:
            ui.label(f"There is no run in {place.runs} yet: `trivium run recipes/quickstart.yaml` makes one.")

        def refresh() -> None:
            table.rows = rows(place)
            table.update()

        ui.timer(SECONDS, refresh)


def rows(place: Place) -> list[dict[str, Any]]:
    """A line for each run, of the end of its log only: hundreds of long runs are listed at once."""
    found = []
    for path in runs(place.runs):
        seen = glance(path)
        found.append(
            {
                "name": seen.name,
                "state": seen.state,
                "stage": seen.stage,
                "step": f"{seen.step:,} of {seen.steps:,}" if seen.steps else "",
                "loss": "" if seen.loss is None else f"{seen.loss:.4f}",
                "left": "" if seen.left is None or seen.state != "running" else f"{seen.left / 60:.0f} min",
                "made": seen.made,
                "last": moment(seen.last),
            }
        )
    return found


def serve(place: Place, host: str, port: int, ready: Callable[[], None] | None = None) -> None:
    """Serves until it is stopped. Other machines reach it only by the name or address given as `host`."""
    build(place, LOCAL | {host})
    threading.Thread(target=warm_up, daemon=True).start()
    if ready is not None:
        app.on_startup(ready)
    ui.run(
        host=host,
        port=port,
        show=False,
        reload=False,
        title="Trivium",
        dark=None,
        uvicorn_logging_level="warning",
    )
