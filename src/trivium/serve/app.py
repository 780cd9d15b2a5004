"""The web side: routes, keys, limits of bodies, and who may ask at all. ASGI, without state of its own."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from trivium.serve import anthropic, openai, responses, wire
from trivium.serve import asked as asking
from trivium.serve.keys import Keys
from trivium.serve.problems import ApiError
from trivium.serve.process import PAGE_HEADERS, Gone, check_caller, given_key, until_gone
from trivium.serve.service import Service

log = logging.getLogger("trivium.serve")
PAGE = Path(__file__).parent / "page.html"
SLOW = 30.0
"""Seconds that a body may take to arrive."""
OPEN = ("/", "/page.js", "/health", "/ready")
"""What needs no key."""
Whole = Callable[[Service, Any], Coroutine[Any, Any, dict[str, Any]]]
Stream = Callable[[Service, Any], AsyncGenerator[str]]


class Events(Response):
    """A stream of events that ends with its client, and closes where it came from."""

    media_type = "text/event-stream"

    def __init__(self, first: str, rest: AsyncGenerator[str], failed: Callable[[ApiError], str]) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self.first, self.rest, self.failed = first, rest, failed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def write() -> None:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await self._body(send, self.first)
            try:
                async for text in self.rest:
                    await self._body(send, text)
            except ApiError as error:
                await self._body(send, self.failed(error))
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        try:
            with suppress(Gone, OSError):
                await until_gone(receive, write())
        finally:
            await self.rest.aclose()

    async def _body(self, send: Send, text: str) -> None:
        await send({"type": "http.response.body", "body": text.encode(), "more_body": True})


class Web:
    """The routes of one service. `hosts`: names that it may be called by where no key is asked for (against DNS rebinding)."""

    def __init__(
        self, service: Service, keys: Keys | None = None, hosts: frozenset[str] | None = None
    ) -> None:
        self.service, self.keys, self.hosts = service, keys, hosts

    def app(self) -> Starlette:
        def post(path: str, kind: type[wire.Wire], whole: Whole, stream: Stream | None = None) -> Route:
            async def handler(request: Request) -> Response:
                return await self._answer(request, kind, whole, stream)

            return Route(path, self._guarded(handler), methods=["POST"])

        def get(path: str, handler: Callable[[Request], Awaitable[Response]]) -> Route:
            return Route(path, self._guarded(handler), methods=["GET"])

        @asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            self.service.start()
            try:
                yield
            finally:
                await asyncio.to_thread(self.service.stop)

        routes = [
            get("/", self._page), get("/page.js", self._script),
            get("/health", self._health), get("/ready", self._ready), get("/metrics", self._metrics),
            get("/v1/models", self._models), get("/v1/models/{name:path}", self._model),
            post("/v1/chat/completions", wire.ChatBody, openai.chat, openai.chat_stream),
            post("/v1/completions", wire.CompletionBody, openai.completion, openai.completion_stream),
            post("/v1/responses", responses.ResponseBody, responses.whole, responses.stream),
            post("/v1/messages", anthropic.MessagesBody, anthropic.whole, anthropic.stream),
            post("/v1/messages/count_tokens", anthropic.CountBody, anthropic.count),
            post("/tokenize", wire.TokenizeBody, tokenize),
        ]  # fmt: skip
        return Starlette(routes=routes, lifespan=lifespan, exception_handlers={404: _lost, 405: _lost})

    def _guarded(
        self, handler: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """Who asks is known before anything is read; whatever happens is answered in the API's own shape, and logged without
        a word of what was asked."""

        async def guarded(request: Request) -> Response:
            began, client = time.monotonic(), None
            try:
                client = self._known(request)
                response = await handler(request)
            except ApiError as error:
                response = self._refusal(request, error)
            except (Gone, ClientDisconnect):
                response = Response(status_code=499)
            except Exception:
                log.exception("%s failed", request.url.path)
                response = self._refusal(request, ApiError(500, "something went wrong here", code="internal"))
            took = 1000 * (time.monotonic() - began)
            log.info(
                "%s %s %d %.0f ms %s",
                request.method,
                request.url.path,
                response.status_code,
                took,
                client or "-",
            )
            return response

        return guarded

    def _refusal(self, request: Request, error: ApiError) -> Response:
        self.service.metrics.refused.labels(self.service.name, str(error.status)).inc()
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
        return owner

    async def _answer(
        self, request: Request, kind: type[wire.Wire], whole: Whole, stream: Stream | None
    ) -> Response:
        body = wire.read(kind, await _body(request, self.service.limits.body))
        if stream is None or not getattr(body, "stream", False):
            result = await until_gone(request.receive, whole(self.service, body))
            return JSONResponse(result)
        events = stream(self.service, body)
        try:  # what cannot be done has a status of its own, and no 200 before it
            first = await until_gone(request.receive, _next(events))
        except BaseException:
            await events.aclose()
            raise
        named = request.url.path in ("/v1/messages", "/v1/responses")

        def failed(error: ApiError) -> str:
            return openai.event(error.anthropic() if named else error.openai(), "error" if named else None)

        return Events(first, events, failed)

    async def _page(self, _: Request) -> Response:
        return HTMLResponse(PAGE.read_text(encoding="utf-8"), headers=PAGE_HEADERS)

    async def _script(self, _: Request) -> Response:
        return Response(PAGE.with_name("page.js").read_text(encoding="utf-8"), media_type="text/javascript")

    async def _health(self, _: Request) -> Response:
        broken = self.service.broken
        return JSONResponse({"status": "ok" if broken is None else broken}, 200 if broken is None else 503)

    async def _ready(self, _: Request) -> Response:
        ready = self.service.ready
        return JSONResponse({"ready": ready, "sequences": self.service.active}, 200 if ready else 503)

    async def _metrics(self, _: Request) -> Response:
        return Response(self.service.metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._described()]})

    async def _model(self, request: Request) -> Response:
        asking.check_model(self.service, request.path_params["name"])
        return JSONResponse(self._described())

    def _described(self) -> dict[str, Any]:
        service = self.service
        return {
            "id": service.name, "object": "model", "created": service.started, "owned_by": "trivium",
            "max_model_len": service.room,
        }  # fmt: skip


async def _next(events: AsyncIterator[str]) -> str:
    return await anext(events)


async def tokenize(service: Service, body: wire.TokenizeBody) -> dict[str, Any]:
    if body.model is not None:
        asking.check_model(service, body.model)
    if body.messages is not None:
        ids = asking.chat_prompt(service, body.messages, [])
    else:
        ids = [
            *(service.chat.begin if body.add_special_tokens else ()),
            *service.chat.guard.plain(body.prompt or ""),
        ]
    return {"count": len(ids), "max_model_len": service.room, "tokens": ids}


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
