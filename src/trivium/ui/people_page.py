"""The arena under the roof of the pages: people compare the replies of an evaluation, blind, and see what comes of it.

Votes lie beside the evaluation's link, RUN/STAGE.votes.sqlite, as `trivium arena` keeps them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from nicegui import app, ui
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from trivium.errors import TriviumError
from trivium.report.runs import runs
from trivium.ui.parts import Place, frame, framed, heading, missing, table


def register(place: Place) -> None:
    @lru_cache(8)
    def opened(evaluation: str, raters: tuple[str, ...]) -> Any:
        """The arena of RUN/STAGE; known by its raters, since a new one is dealt tasks of their own."""
        from trivium.evaluate.people.server import opened as arena

        return arena([place.runs / evaluation], _votes(place, evaluation), raters)[0]

    def booth(evaluation: str) -> ASGIApp:
        votes = _votes(place, evaluation)
        application: ASGIApp = opened(evaluation, tuple(sorted(votes.raters().values()))).app()
        return application

    async def vote(scope: Scope, receive: Receive, send: Send) -> None:
        """The page for one rater, and what it asks: of the arena of its address, /votes/RUN/STAGE/."""
        evaluation = "{run}/{stage}".format(**scope["path_params"])
        if evaluation not in evaluations(place):
            await PlainTextResponse("there is no such evaluation", status_code=404)(scope, receive, send)
            return
        await (await asyncio.to_thread(booth, evaluation))(scope, receive, send)

    app.mount("/votes/{run}/{stage}", vote)

    @ui.page("/arena", title="Trivium: arena")
    def arena() -> None:
        frame("Arena")
        _page(place, booth)


def evaluations(place: Place) -> list[str]:
    """RUN/STAGE of every evaluation, the newest run first."""
    return [
        f"{path.name}/{link.name}"
        for path in runs(place.runs)
        for link in sorted(path.iterdir())
        if (link / "rows.parquet").is_file()
    ]


def _file(place: Place, evaluation: str) -> Path:
    return place.runs / f"{evaluation}.votes.sqlite"


def _votes(place: Place, evaluation: str) -> Any:
    try:
        from trivium.evaluate.people.votes import Votes
    except ModuleNotFoundError as error:
        raise TriviumError(f"votes need {error.name}", fix="pip install 'trivium[arena]'") from None
    return Votes(_file(place, evaluation))


def _page(place: Place, booth: Callable[[str], Any]) -> None:
    there = evaluations(place)
    if not there:
        ui.label("There are no replies to compare yet: an `evaluate` stage with a `baseline` makes some.")
        return
    with ui.row().classes("items-center"):
        evaluation = ui.select(there, value=there[0], label="evaluation")
        name = ui.input("your name", value="me")
        begin = ui.button("Compare replies")
        scores = ui.button("Scores").props("flat")
    area = ui.column().classes("w-full")

    def shown(action: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        async def act() -> None:
            area.clear()
            with area:
                try:
                    await action()
                except TriviumError as error:
                    missing(str(error))

        return act

    def joined(chosen: str, rater: str) -> str:
        """The secret of a rater's link; the arena is opened, so that what is wrong with it is said here."""
        link: str = _votes(place, chosen).rater(rater)
        booth(chosen)
        return link

    async def compare() -> None:
        link = await asyncio.to_thread(joined, evaluation.value, (name.value or "").strip() or "me")
        framed(f"/votes/{evaluation.value}/#{link}")

    async def told() -> None:
        if not _file(place, evaluation.value).is_file():
            ui.label("Nobody has voted yet.")
            return
        _show(*await asyncio.to_thread(_standing, place, evaluation.value))

    begin.on_click(shown(compare))
    scores.on_click(shown(told))


def _standing(place: Place, evaluation: str) -> tuple[Any, float | None]:
    from trivium.evaluate.people.agreement import agreement
    from trivium.evaluate.people.strengths import standings
    from trivium.evaluate.people.votes import standing

    votes = _votes(place, evaluation)
    counted = standing(votes.log())
    return standings(counted, votes.tasks()), agreement(counted)


def _show(found: Any, agreed: float | None) -> None:
    if not found.strengths:
        ui.label("There are no votes that count yet.")
        return
    heading(f"{found.raters} raters, {found.tasks} pairs: points as Elo's, 95% intervals")
    rows = [(s.model, f"{s.points:+.0f}", f"[{s.low:+.0f}, {s.high:+.0f}]", s.votes) for s in found.strengths]
    table(("model", "points", "interval", "votes"), rows)
    said = "not known" if agreed is None else f"{agreed:.2f}"
    ui.label(
        f"Agreement of raters (Krippendorff's alpha): {said}. Left out, since a reply names its model: {found.non_blind}."
    )
    if found.raters < 2:
        ui.label("One rater: the intervals say nothing of other raters.")
