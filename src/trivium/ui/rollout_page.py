"""Rollouts under the roof of the pages: the router's own page, over a log that is read or a router that is asked.

A log can only be looked at: what a rollout does is decided by its router. Where the router's address is given, the page asks it,
and what a person does there goes to it.
"""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import httpx
from nicegui import app, ui
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from trivium.errors import ArtifactError, TriviumError
from trivium.pipeline.rollouts import noted
from trivium.serve.process import PAGE_HEADERS
from trivium.ui.parts import Place, frame, framed, table

HEADERS = PAGE_HEADERS | {
    "Content-Security-Policy": PAGE_HEADERS["Content-Security-Policy"].replace(
        "frame-ancestors 'none'", "frame-ancestors 'self'"
    )
}
LOOKED_AT = (
    "only its router writes this log: give the router's address, `trivium ui --rollout http://HOST:PORT`"
)
ACTIONS = ("promote", "hold", "resume", "rollback")
SECONDS = 10.0
"""That a router may take to answer."""


class Rollout:
    """One rollout at `where`: the path or address of its log, or (http) of its router."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.routed = where.startswith(("http://", "https://"))
        self._lock = threading.Lock()
        self._known: Any = None

    def look(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Status and history as the router would tell them. TriviumError where there is no log, or it is damaged."""
        from trivium.rollout.history import History
        from trivium.rollout.journal import LINES, journal_at
        from trivium.rollout.log import State
        from trivium.rollout.status import status_of

        if "://" not in self.where and not Path(self.where).is_file():
            raise ArtifactError("there is no such log", where=self.where, fix="check the path")
        with self._lock:
            if self._known is None or self.where.endswith(
                LINES
            ):  # lines are read from the start, a database goes on
                self._known = journal_at(self.where), State(), History()
            journal, state, history = self._known
            try:
                for event in journal.read():
                    state.apply(event)
                    history.note(state, event)
            except OSError as error:
                raise ArtifactError(
                    f"the log cannot be read: {error}", where=self.where, fix="check the path"
                ) from None
            if state.plan is None:
                raise ArtifactError(
                    "the rollout has not begun", where=self.where, fix="trivium rollout serve begins it"
                )
            router: dict[str, Any] = {"share": state.share, "stuck": None, "lost": 0, "arms": {}}
            return status_of(state, state.now) | router, history.now(state)

    async def answer(self, what: str, request: Request) -> Response:
        """What the page asks."""
        if self.routed:
            return await self._routed(what, request)
        if what in ACTIONS:
            return JSONResponse({"error": {"message": LOOKED_AT}}, 409)
        try:
            status, points = await asyncio.to_thread(self.look)
        except TriviumError as error:
            return JSONResponse({"error": {"message": str(error)}}, 409)
        return JSONResponse(status if what == "status" else {"points": points})

    async def _routed(self, what: str, request: Request) -> Response:
        kept = {
            name: request.headers[name]
            for name in ("authorization", "content-type")
            if name in request.headers
        }
        try:
            async with httpx.AsyncClient(timeout=SECONDS) as client:
                found = await client.request(
                    request.method,
                    f"{self.where.rstrip('/')}/rollout/{what}",
                    content=await request.body(),
                    headers=kept,
                )
        except httpx.HTTPError as error:
            return JSONResponse(
                {"error": {"message": f"the router at {self.where} does not answer: {error}"}}, 502
            )
        return Response(found.content, found.status_code, media_type="application/json")


def register(place: Place) -> None:
    known: dict[str, Rollout] = {}

    def all_of_them() -> list[Rollout]:
        """Those that were named, and those that the store knows."""
        for where in [*place.rollouts, *(said["log"] for said in noted(place.store))]:
            known.setdefault(where, Rollout(where))
        return list(known.values())

    async def page(request: Request) -> Response:
        import trivium.rollout

        name, kind = (
            ("page.js", "text/javascript") if request.url.path.endswith(".js") else ("page.html", "text/html")
        )
        content = (Path(trivium.rollout.__file__).parent / name).read_bytes()
        return Response(content, media_type=kind, headers=HEADERS)

    async def asked(request: Request) -> Response:
        number, what = request.path_params["number"], request.path_params["what"]
        there = all_of_them()
        wanted = "POST" if what in ACTIONS else "GET"
        if number >= len(there) or what not in (*ACTIONS, "status", "history") or request.method != wanted:
            return JSONResponse({"error": {"message": "there is no such rollout"}}, 404)
        answer: Response = await there[number].answer(what, request)
        return answer

    app.add_route("/rollout/page.js", page)
    app.add_route("/rollout/{number:int}", page)
    app.add_route("/rollout/{number:int}/{what}", asked, methods=["GET", "POST"])

    @ui.page("/rollouts", title="Trivium: rollouts")
    async def rollouts() -> None:
        frame("Rollouts")
        there = all_of_them()
        if not there:
            ui.label(
                "No rollout is known: `trivium rollout serve` notes in the store which candidate it serves;"
            )
            ui.label("`trivium ui --rollout LOG`, or the router's address, names another.")
            return
        table(
            ("rollout", "status", "stage", "share", "at"),
            [await asyncio.to_thread(_line, one) for one in there],
        )
        names = {number: one.where for number, one in enumerate(there)}
        choice = ui.select(names, value=0, label="shown", on_change=lambda event: draw(event.value))
        area = ui.column().classes("w-full")

        def draw(number: int) -> None:
            area.clear()
            with area:
                framed(f"/rollout/{number}")

        draw(choice.value)


def _line(rollout: Rollout) -> tuple[Any, ...]:
    try:
        if rollout.routed:
            return ("", "asked below", "", "", rollout.where)
        told, _ = rollout.look()
    except TriviumError as error:
        return ("", error.what, "", "", rollout.where)
    return (
        told["name"],
        told["status"],
        f"{told['stage'] + 1} of {len(told['stages'])}",
        f"{told['share']:.0%}",
        rollout.where,
    )
