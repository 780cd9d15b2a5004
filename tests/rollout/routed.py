"""Arms that do as they are told, and a router in front of them, all on this machine's loopback and in one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from trivium.rollout import journal
from trivium.rollout.judging import Judging
from trivium.rollout.ledger import Ledger
from trivium.rollout.plan import RolloutPlan, plan_of
from trivium.rollout.router import Router
from trivium.rollout.server import Options, build, client
from trivium.rollout.texts import Texts
from trivium.serve.process import configured

CHAT = "/v1/chat/completions"
WORDS = ("Bees find", " their way", " by the sun", ".")
Handler = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]


def in_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """A test that is a coroutine, in a loop of its own."""

    @functools.wraps(test)
    def run(*given: Any, **named: Any) -> None:
        async def whole() -> None:
            await test(*given, **named)

        asyncio.run(whole())

    return run


def event(text: str | None, finish: str | None = None) -> bytes:
    delta = {} if text is None else {"content": text}
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + json.dumps({"object": "chat.completion.chunk", "choices": [choice]}).encode() + b"\n\n"


STREAM = [*map(event, WORDS), event(None, "stop"), b"data: [DONE]\n\n"]


def whole(text: str = "".join(WORDS), finish: str = "stop") -> bytes:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return json.dumps({"id": "x", "object": "chat.completion", "choices": [choice]}).encode()


async def good(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    if not body.get("stream"):
        return web.Response(body=whole(), content_type="application/json", headers={"x-arm": "yes"})
    response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
    await response.prepare(request)
    for piece in STREAM:
        await response.write(piece)
    await response.write_eof()
    return response


def answers(
    body: bytes,
    status: int = 200,
    content_type: str = "application/json",
    then: str = "ends",
    pause: float = 0.0,
) -> Handler:
    """Always the same bytes. `then`: the connection `ends` well, is `cut`, or `hangs`."""

    async def handler(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        await asyncio.sleep(pause)
        response = web.StreamResponse(status=status, headers={"content-type": content_type})
        await response.prepare(request)
        if body:
            await response.write(body)
        if then == "hangs":
            await asyncio.sleep(3600)
        if then == "cut":
            assert request.transport is not None
            request.transport.abort()
            return response
        await response.write_eof()
        return response

    return handler


@dataclass
class Arm:
    """A stub of a server. `seen`: the bodies that it was asked; `left`: requests that were cancelled before their end."""

    handler: Handler = good
    seen: list[dict[str, Any]] = field(default_factory=list)
    heads: list[dict[str, str]] = field(default_factory=list)
    left: int = 0
    port: int = 0
    runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application(client_max_size=10**8)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self.runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1, access_log=None)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self.runner.addresses[0][1]

    async def stop(self) -> None:
        assert self.runner is not None
        await self.runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/v1/models":
            return web.json_response({"object": "list", "data": [{"id": "model"}]})
        raw = await request.read()
        try:
            body = json.loads(raw)
        except ValueError:
            body = {}
        self.seen.append(body)
        self.heads.append(dict(request.headers))
        try:
            return await self.handler(request, body)
        except asyncio.CancelledError:
            self.left += 1
            raise


@dataclass
class Site:
    """The router and its arms, and a client in front of it."""

    stable: Arm
    candidate: Arm
    router: Router
    ledger: Ledger
    url: str
    http: aiohttp.ClientSession

    async def ask(self, unit: str | None = "ann", path: str = CHAT, **more: Any) -> tuple[int, bytes, Any]:
        body = {
            "model": "model",
            "messages": [{"role": "user", "content": "How do bees find their way?"}],
            **more,
        }
        if unit is not None:
            body["user"] = unit
        async with self.http.post(self.url + path, json=body) as response:
            return response.status, await response.read(), response.headers.copy()

    async def do(self, action: str, **more: Any) -> tuple[int, dict[str, Any]]:
        body = {"reason": "a test", "who": "ann", **more}
        async with self.http.post(f"{self.url}/rollout/{action}", json=body) as response:
            return response.status, await response.json()

    async def vote(self, request: str, value: float = 1.0, metric: str = "thumbs") -> int:
        body = {"id": request, "metric": metric, "value": value}
        async with self.http.post(f"{self.url}/v1/feedback", json=body) as response:
            return response.status

    async def status(self) -> dict[str, Any]:
        async with self.http.get(f"{self.url}/rollout/status") as response:
            assert response.status == 200
            return await response.json()

    async def written(self) -> list[dict[str, Any]]:
        """The log's events, once nothing is under way."""
        ledger = self.ledger
        for pause in (0.25, 0.0):  # what is being measured stands in no list for a moment
            await until(lambda: not (ledger.underway or self.router.active))
            await until(lambda: not (ledger._unmeasured or ledger._queue or ledger._unwritten))
            await asyncio.sleep(pause)
        return events_of(self.ledger.path)


def events_of(log: Path) -> list[dict[str, Any]]:
    return list(journal.events(log))


async def until(true: Callable[[], bool], seconds: float = 120.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.01)


PATIENCE = "60s"
"""With every arm, if nothing else is said: a machine that stands still for seconds is no arm that hangs."""
GUARDRAILS = {
    "errors": {"metric": "error", "within": 0.05},
    "empty": {"metric": "empty"},
    "latency": {"metric": "log_latency", "tau": 0.1},
}


def plan_for(
    stable: Arm,
    candidate: Arm,
    candidates: dict[str, Arm] | None = None,
    of_arms: dict[str, Any] | None = None,
    **changes: Any,
) -> RolloutPlan:
    """One stage at half of the units, which nothing but a person ends, if nothing else is said."""
    arms = {
        name: {"url": f"http://127.0.0.1:{arm.port}", "patience": PATIENCE, **(of_arms or {})}
        for name, arm in {"stable": stable, **(candidates or {"candidate": candidate})}.items()
    }
    plan = {
        "name": "chat", "unit": "request", "stages": [{"share": 0.5, "min_units": 10_000}], "guardrails": GUARDRAILS,
        "arms": arms,
    }  # fmt: skip
    return plan_of(plan | changes)


@contextlib.asynccontextmanager
async def site(
    log: Path,
    stable: Handler = good,
    candidate: Handler = good,
    options: Options | None = None,
    texts: Path | None = None,
    scorer: Any = None,
    candidates: dict[str, Arm] | None = None,
    started: bool = True,
    **changes: Any,
) -> AsyncIterator[Site]:
    """`candidates`: by name, instead of the one; `started`: they are. `changes`: fields of the plan; `of_arms`: of every arm."""
    arms = Arm(stable), Arm(candidate)
    async with contextlib.AsyncExitStack() as stack:
        for arm in (*arms, *(candidates or {}).values()) if started else arms:
            await arm.start()
            stack.push_async_callback(arm.stop)
        session = await stack.enter_async_context(client())
        http = await stack.enter_async_context(aiohttp.ClientSession())
        plan = plan_for(*arms, candidates, **changes)
        judging = None if scorer is None else Judging(lambda: scorer, plan.judged)
        ledger = Ledger(log, plan, texts=None if texts is None else Texts(texts), judging=judging)
        router = build(ledger, session, options or Options())
        ledger.open({"url": "stub"}, force=True)
        await ledger.start()
        stack.push_async_callback(ledger.stop)
        server = configured(router, "127.0.0.1", 0, lifespan="off")
        serving = asyncio.create_task(server.serve())
        await until(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        try:
            yield Site(*arms, router, ledger, f"http://127.0.0.1:{port}", http)
        finally:
            server.should_exit = server.force_exit = True
            await serving
