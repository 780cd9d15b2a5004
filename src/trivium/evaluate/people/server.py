"""`trivium arena`: the page that asks people, and what it asks of this server. It holds no state: all is in the votes."""

from __future__ import annotations

import asyncio
import json
import math
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from trivium.errors import DataError, RecipeError
from trivium.evaluate import rows
from trivium.evaluate.people.tasks import Table, Task, dealt, messages, names_itself, shown, tasks
from trivium.evaluate.people.votes import PAIR, SINGLE, UNDO, Busy, Vote, Votes, standing
from trivium.serve.problems import ApiError
from trivium.serve.process import check_caller, configured, given_key
from trivium.serve.process import shown as address

PAGE = Path(__file__).parent / "page.html"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'self'"
)
LONGEST = 10_000
"""Bytes of a vote."""
LONGEST_NAME = 80


class Arena:
    """The page of some tasks. `names`: those that a reply may call itself by; `hosts`: those of this machine."""

    def __init__(
        self,
        votes: Votes,
        asked: Sequence[Task],
        *,
        overlap: float = 1.0,
        seed: int = 0,
        names: Sequence[str] = (),
        hosts: frozenset[str] | None = None,
    ) -> None:
        self.votes, self.seed, self.names, self.hosts = votes, seed, names, hosts
        self.raters = votes.raters()
        self.by_id = {task.id: task for task in asked}
        everybody = list(self.raters.values())
        self.dealt = {name: dealt(asked, name, everybody, seed, overlap) for name in everybody}
        self.models = sorted({side.model for task in asked for side in task.sides})

    def app(self) -> Starlette:
        routes = [
            Route("/", self._page),
            Route("/page.js", self._script),
            Route("/next", self._guarded(self._next)),
            Route("/vote", self._guarded(self._vote), methods=["POST"]),
            Route("/undo", self._guarded(self._undo), methods=["POST"]),
        ]
        return Starlette(routes=routes)

    async def _page(self, _: Request) -> Response:
        headers = {
            "Content-Security-Policy": POLICY,
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
        }
        return HTMLResponse(PAGE.read_text(encoding="utf-8"), headers=headers)

    async def _script(self, _: Request) -> Response:
        return Response(PAGE.with_name("page.js").read_text(encoding="utf-8"), media_type="text/javascript")

    def _guarded(
        self, handler: Callable[[str, dict[str, Any]], Any]
    ) -> Callable[[Request], Awaitable[Response]]:
        """Who asks is known by the secret of the link. What could not be stored is answered with 503, to be sent again."""

        async def guarded(request: Request) -> Response:
            try:
                check_caller(request.headers.get("host", ""), request.headers.get("origin"), self.hosts)
                rater = self.raters.get(given_key(request.headers.get("authorization", ""), ""))
                if rater is None:
                    raise ApiError(403, "this link is nobody's: open the one that you were given")
                body: Any = {}
                if request.method == "POST":
                    body = json.loads(await _body(request))
                    if not isinstance(body, dict):
                        raise ApiError(400, "a vote is a small object of JSON")
                return JSONResponse(
                    await asyncio.to_thread(handler, rater, body), headers={"Cache-Control": "no-store"}
                )
            except ApiError as error:
                return JSONResponse({"error": error.message}, error.status)
            except Busy as error:
                return JSONResponse({"error": f"not stored: {error.what}"}, 503, headers={"Retry-After": "1"})
            except DataError as error:
                return JSONResponse({"error": error.what}, 409)
            except (ValueError, RecursionError, OverflowError):
                return JSONResponse({"error": "this is no vote in JSON"}, 400)

        return guarded

    def _standing(self, rater: str) -> dict[str, Vote]:
        return {vote.task: vote for vote in standing(self.votes.log()) if vote.rater == rater}

    def _next(self, rater: str, _: dict[str, Any]) -> dict[str, Any]:
        """The rater's first task without a vote, and how far they are."""
        done, own = self._standing(rater), self.dealt[rater]
        left = [task for task in own if task.id not in done]
        return {
            "rater": rater,
            "done": len(own) - len(left),
            "all": len(own),
            "task": self._shown(left[0], rater) if left else None,
        }

    def _shown(self, task: Task, rater: str) -> dict[str, Any]:
        """What the page may know: no model's name."""
        replies = [side.reply for side in shown(task, rater, self.seed)]
        return {
            "id": task.id,
            "prompt": [{"role": str(m["role"]), "content": str(m["content"])} for m in messages(task)],
            "replies": replies,
            "same": len(replies) == 2 and replies[0].strip() == replies[1].strip(),
        }

    def _vote(self, rater: str, body: dict[str, Any]) -> dict[str, Any]:
        task = self.by_id.get(str(body.get("task")))
        choice, seconds = body.get("choice"), body.get("seconds", 0.0)
        if task is None:
            raise ApiError(404, "there is no such task")
        key = _key(body)
        allowed = PAIR if len(task.sides) == 2 else SINGLE
        if choice not in allowed:
            raise ApiError(400, f"the choice is one of {', '.join(allowed)}", param="choice")
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not math.isfinite(seconds):
            raise ApiError(400, "seconds is a number", param="seconds")
        reason = body.get("reason", "")
        if not isinstance(reason, str) or "\0" in reason:  # which no database of texts takes
            raise ApiError(400, "the reason is text", param="reason")
        vote = self._made(task, rater, key, str(choice), reason, body.get("consent") is True, float(seconds))
        return {"stored": True, "again": not self.votes.add(vote)}

    def _undo(self, rater: str, body: dict[str, Any]) -> dict[str, Any]:
        """Takes back the rater's last vote that counts."""
        key, log = _key(body), self.votes.log()
        if any(vote.key == key for vote in log):
            return {"stored": True, "again": True}
        own = [vote for vote in log if vote.rater == rater]
        counted = {vote.key for vote in standing(own)}
        last = next((vote for vote in reversed(own) if vote.key in counted and vote.task in self.by_id), None)
        if last is None:
            raise ApiError(404, "there is nothing to undo")
        self.votes.add(self._made(self.by_id[last.task], rater, key, UNDO, "", False, 0.0))
        return {"stored": True, "again": False}

    def _made(
        self, task: Task, rater: str, key: str, choice: str, reason: str, consent: bool, seconds: float
    ) -> Vote:
        sides = shown(task, rater, self.seed)
        return Vote(
            key=key,
            task=task.id,
            rater=rater,
            choice=choice,
            left=sides[0].model,
            right=sides[1].model if len(sides) == 2 else "",
            templates=" ".join(side.template for side in sides),
            reason=reason,
            blind=not any(names_itself(side.reply, self.models, self.names) for side in sides),
            consent=consent,
            seconds=seconds,
            at=datetime.now(UTC).isoformat(timespec="seconds"),
        )


def opened(
    folders: Sequence[Path],
    votes: Votes,
    raters: Sequence[str],
    *,
    rate: bool = False,
    overlap: float = 1.0,
    names: Sequence[str] = (),
    hosts: frozenset[str] | None = None,
) -> tuple[Arena, Counter[str]]:
    """The arena over evaluations, its tasks and raters kept in `votes`; and what is not shown, by reason. Fields as of `Arena`.

    DataError where there is nothing to compare (`rate`: to rate); RecipeError for a rater without a name.
    """
    tables = [
        Table(folder.resolve().name, folder.name, rows.of_models(rows.read(folder))) for folder in folders
    ]
    found, account = tasks(tables, rate)
    if not found:
        why = ", ".join(f"{count} times {reason}" for reason, count in account.items())
        raise DataError(
            f"there is nothing to compare: {why or 'no model has written'}",
            where=", ".join(map(str, folders)),
            fix="two models must have replied to the same prompts (`baseline` or `compare`), or --rate",
        )
    if any(not name.strip() or len(name) > LONGEST_NAME for name in raters):
        raise RecipeError(f"a rater's name has 1 to {LONGEST_NAME} characters", fix="--rater ann")
    votes.keep(found)
    for one in raters:
        votes.rater(one)
    return Arena(votes, found, overlap=overlap, names=names, hosts=hosts), account


def _key(body: dict[str, Any]) -> str:
    key = body.get("key")
    if not isinstance(key, str) or not 8 <= len(key) <= 100 or not key.isprintable():
        raise ApiError(400, "a vote or an undo needs a key of 8 to 100 characters", param="key")
    return key


async def _body(request: Request) -> bytes:
    raw = b""
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > LONGEST:
            raise ApiError(413, f"a vote has {LONGEST} bytes at most")
    return raw


def serve(arena: Arena, host: str, port: int) -> None:
    """Serves until it is stopped. Whoever has a rater's link may vote as this rater. `port` 0: any that is free."""
    try:
        listening = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        )
    except OSError as error:
        raise DataError(f"no page at {address(host, port)}: {error.strerror}", fix="another --port") from None
    server = configured(arena.app(), host, port)
    for link, name in arena.raters.items():
        print(f"{name}: {address(host, listening.getsockname()[1])}/#{link}", flush=True)
    print("Ctrl-C ends it; every vote is in the file as soon as the page says so", flush=True)
    asyncio.run(server.serve(sockets=[listening]))
