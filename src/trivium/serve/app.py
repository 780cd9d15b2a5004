"""The web side: routes, keys, limits of bodies, and who may ask at all. ASGI, without state of its own."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from trivium import files
from trivium.errors import DataError, TriviumError
from trivium.serve import spans, wire
from trivium.serve.anthropic import CountBody, MessagesBody
from trivium.serve.engines import CALL, Call, Engine, check_model
from trivium.serve.keys import Keys
from trivium.serve.metrics import Metrics
from trivium.serve.openapi import description
from trivium.serve.problems import ApiError
from trivium.serve.process import PAGE_HEADERS, Gone, check_caller, given_key, until_gone
from trivium.serve.responses import ResponseBody

log = logging.getLogger("trivium.serve")
PAGE = Path(__file__).parent / "page.html"
Trace = Callable[[str], dict[str, Any]]
"""A reply -> the report of `trivium.trace.reply.trace`, and what the page shows of it (`trivium.cli.tracing`)."""
SLOW = 30.0
"""Seconds that a body may take to arrive."""
OPEN = ("/", "/page.js", "/health", "/ready")
"""What needs no key."""
BODIES: dict[str, type[wire.Wire]] = {
    "/v1/chat/completions": wire.ChatBody,
    "/v1/completions": wire.CompletionBody,
    "/v1/responses": ResponseBody,
    "/v1/messages": MessagesBody,
    "/v1/messages/count_tokens": CountBody,
    "/tokenize": wire.TokenizeBody,
}
"""What may be posted, and where."""
READS = {
    "/v1/models": "application/json",
    "/health": "application/json",
    "/ready": "application/json",
    "/metrics": "text/plain",
}
"""What may be read, and as what."""


class Events(Response):
    """A stream of events that ends with its client, and closes where it came from."""

    media_type = "text/event-stream"

    def __init__(self, first: str, rest: AsyncGenerator[str], failed: Callable[[ApiError], str]) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self.first, self.rest, self.failed = first, rest, failed
        self.before: Callable[[], None] = lambda: None
        """Called before each event goes out: what it cost is counted before a client can know that it was the last."""
        self.ended: Callable[[], None] = lambda: None
        """Called once: when the last event is out, before the client is told so, or when it has gone."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def write() -> None:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await self._body(send, self.first)
            try:
                async for text in self.rest:
                    await self._body(send, text)
            except ApiError as error:
                await self._body(send, self.failed(error))
            self._end()  # its next request is counted after this one
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        try:
            with suppress(Gone, OSError):
                await until_gone(receive, write())
        finally:
            await self.rest.aclose()
            self._end()

    def _end(self) -> None:
        ended, self.ended = self.ended, lambda: None
        ended()

    async def _body(self, send: Send, text: str) -> None:
        self.before()
        await send({"type": "http.response.body", "body": text.encode(), "more_body": True})


class Web:
    """The routes of one engine. `hosts`: names that it may be called by where no key is asked for (against DNS rebinding).
    `feedback`: where what people think of replies is kept. `beside`: a second engine, for who asks it by its name. `traces`:
    how a reply of the engine of that name is traced, as `page.js` shows it."""

    def __init__(
        self, engine: Engine, keys: Keys | None = None, hosts: frozenset[str] | None = None,
        feedback: Path | None = None, beside: Engine | None = None, traces: Mapping[str, Trace] | None = None,
    ) -> None:  # fmt: skip
        self.engine, self.keys, self.hosts, self.feedback, self.beside = engine, keys, hosts, feedback, beside
        self.traces: Mapping[str, Trace] = {} if traces is None else traces
        self._tracing = asyncio.Lock()
        if beside is not None:
            beside.metrics = Metrics(beside.name, engine.metrics)

    @property
    def engines(self) -> list[Engine]:
        return [self.engine] if self.beside is None else [self.engine, self.beside]

    def _named(self, name: str | None) -> Engine:
        """The engine of that name; the first one for a name that none has, which refuses it."""
        return next((engine for engine in self.engines if engine.name == name), self.engine)

    def app(self) -> Starlette:
        def get(path: str, handler: Callable[[Request], Awaitable[Response]]) -> Route:
            return Route(path, self._guarded(handler), methods=["GET"])

        @asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            for engine in self.engines:
                engine.start()
            try:
                yield
            finally:
                for engine in self.engines:
                    await asyncio.to_thread(engine.stop)

        routes = [
            get("/", self._page), get("/page.js", self._script),
            get("/health", self._health), get("/ready", self._ready), get("/metrics", self._metrics),
            get("/openapi.json", self._openapi),
            get("/v1/models", self._models), get("/v1/models/{name:path}", self._model),
            Route("/feedback", self._guarded(self._judged), methods=["POST"]),
            Route("/trace", self._guarded(self._traced), methods=["POST"]),
            *(Route(path, self._guarded(self._answer), methods=["POST"]) for path in BODIES),
        ]  # fmt: skip
        return Starlette(routes=routes, lifespan=lifespan, exception_handlers={404: _lost, 405: _lost})

    def _guarded(
        self, handler: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """Who asks is known before anything is read; whatever happens is answered in the API's own shape, and logged without
        a word of what was asked."""

        async def guarded(request: Request) -> Response:
            began, call = time.monotonic(), Call(request.url.path)
            CALL.set(call)
            span = spans.started(call.path, request.headers)
            try:
                call.client = self._known(request)
                response = await handler(request)
            except ApiError as error:
                response = self._refusal(request, error)
            except (Gone, ClientDisconnect):
                response = Response(status_code=499)
            except Exception:
                log.exception("%s failed", request.url.path)
                response = self._refusal(request, ApiError(500, "something went wrong here", code="internal"))
            call.status = response.status_code

            def spend() -> None:
                if self.keys is not None and call.client is not None:
                    new, call.spent = call.prompt + call.reply - call.spent, call.prompt + call.reply
                    self.keys.spend(call.client, new)

            def ended() -> None:
                took = 1000 * (time.monotonic() - began)
                log.info(
                    "%s %s %d %.0f ms %s", request.method, call.path, call.status, took, call.client or "-"
                )
                spend()
                spans.ended(span, call)

            if isinstance(response, Events):
                response.before, response.ended = spend, ended
            else:
                ended()
            return response

        return guarded

    def _refusal(self, request: Request, error: ApiError) -> Response:
        self.engine.metrics.refused.labels(self.engine.name, str(error.status)).inc()
        body = error.anthropic() if request.url.path.startswith("/v1/messages") else error.openai()
        return JSONResponse(body, error.status, headers=error.headers)

    def _known(self, request: Request) -> str | None:
        """The client's name. ApiError 401 without a valid key, 403 for pages of other sites and names that are not ours."""
        headers = request.headers
        check_caller(headers.get("host", ""), headers.get("origin"), self.hosts)
        if self.keys is None or request.url.path in OPEN:
            return None
        key = given_key(headers.get("authorization", ""), headers.get("x-api-key", ""))
        owner = self.keys.owner(key)
        if owner is None:
            raise ApiError(401, "this server needs a valid API key", code="invalid_api_key")
        if request.url.path in BODIES:
            self.keys.admit(owner)
        return owner

    async def _answer(self, request: Request) -> Response:
        path = request.url.path
        raw = wire.parsed(await _body(request, self.engine.limits.body))
        body = wire.checked(BODIES[path], raw)
        engine = self._named(getattr(body, "model", None))
        if (call := CALL.get()) is not None:
            call.model = engine.name
        if not getattr(body, "stream", False):
            return JSONResponse(await until_gone(request.receive, engine.whole(path, body, raw)))
        events = engine.stream(path, body, raw)
        try:  # what cannot be done has a status of its own, and no 200 before it
            first = await until_gone(request.receive, _next(events))
        except BaseException:
            await events.aclose()
            raise
        named = path in ("/v1/messages", "/v1/responses")

        def failed(error: ApiError) -> str:
            return wire.event(error.anthropic() if named else error.openai(), "error" if named else None)

        return Events(first, events, failed)

    async def _judged(self, request: Request) -> Response:
        """Keeps what somebody thinks of a reply; it is told so once it is in the file."""
        if self.feedback is None:
            raise ApiError(404, "this server keeps no feedback; `--feedback FILE` does", code="not_found")
        body = wire.read(wire.FeedbackBody, await _body(request, self.engine.limits.body))
        call = CALL.get()
        engine = self.engine if body.model is None else self._named(body.model)
        check_model(engine, body.model or engine.name)
        row = body.row(engine.name, None if call is None else call.client)
        await asyncio.to_thread(files.append, self.feedback, row)
        return JSONResponse({"kept": True})

    async def _traced(self, request: Request) -> Response:
        """Where a reply stands in what its model was trained on; one is looked for at a time."""
        body = wire.read(wire.TraceBody, await _body(request, self.engine.limits.body))
        engine = self.engine if body.model is None else self._named(body.model)
        check_model(engine, body.model or engine.name)
        trace = self.traces.get(engine.name)
        if trace is None:
            raise ApiError(404, f"replies of {engine.name} are not traced here", code="not_found")
        async with self._tracing:
            try:
                return JSONResponse(await asyncio.to_thread(trace, body.reply))
            except DataError as error:
                raise ApiError(400, error.what, param="reply") from None
            except TriviumError as error:
                log.error("a reply could not be traced: %s", error)
                raise ApiError(500, f"it could not be traced: {error.what}", code="internal") from None

    async def _page(self, _: Request) -> Response:
        return HTMLResponse(PAGE.read_text(encoding="utf-8"), headers=PAGE_HEADERS)

    async def _script(self, _: Request) -> Response:
        return Response(PAGE.with_name("page.js").read_text(encoding="utf-8"), media_type="text/javascript")

    async def _openapi(self, _: Request) -> Response:
        return JSONResponse(description(BODIES, READS))

    async def _health(self, _: Request) -> Response:
        broken = next((engine.broken for engine in self.engines if engine.broken is not None), None)
        return JSONResponse({"status": "ok" if broken is None else broken}, 200 if broken is None else 503)

    async def _ready(self, _: Request) -> Response:
        ready, active = all(e.ready for e in self.engines), sum(e.active for e in self.engines)
        return JSONResponse({"ready": ready, "sequences": active}, 200 if ready else 503)

    async def _metrics(self, _: Request) -> Response:
        return Response(self.engine.metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._described(engine) for engine in self.engines]})

    async def _model(self, request: Request) -> Response:
        engine = self._named(request.path_params["name"])
        check_model(engine, request.path_params["name"])
        return JSONResponse(self._described(engine))

    def _described(self, engine: Engine) -> dict[str, Any]:
        return {
            "id": engine.name, "object": "model", "created": engine.started, "owned_by": "trivium",
            "max_model_len": engine.room, "feedback": self.feedback is not None,
            "trace": engine.name in self.traces,
        }  # fmt: skip


async def _next(events: AsyncIterator[str]) -> str:
    return await anext(events)


async def _body(request: Request, most: int) -> bytes:
    """A body of at most `most` bytes that comes in time: ApiError 413, 408."""
    too_much = ApiError(413, f"the body has more than {most:,} bytes", code="body_too_large")
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > most:
        raise too_much
    data = bytearray()
    try:
        async with asyncio.timeout(SLOW):
            async for piece in request.stream():
                data += piece
                if len(data) > most:
                    raise too_much
    except TimeoutError:
        raise ApiError(408, f"the body did not come within {SLOW:g} s", code="slow_body") from None
    return bytes(data)


async def _lost(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    what = (
        f"there is no {request.url.path} here"
        if status == 404
        else f"{request.url.path} does not take {request.method}"
    )
    return JSONResponse(ApiError(status, what, code="not_found").openai(), status)
