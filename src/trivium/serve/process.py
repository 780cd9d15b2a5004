"""What every server of ours does: who may ask at all, clients that go away, and an end that lets replies finish. No torch."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import resource
import signal
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from trivium.serve.problems import ApiError

CONNECTIONS = 1000
"""Connections at once: requests on more are answered 503, and from twice as many on they are closed unheard."""
HEAD = 15.0
"""Seconds that a request's head may take to arrive."""
UNREAD = 60.0
"""Seconds that a client may leave unread what waits for it."""
LEAVING = 5
"""Seconds that connections get after the drain: one of a client that says nothing would hold the process for ever."""
PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
"""Of pages that our servers show: only their own script runs, and nobody frames them."""
Result = TypeVar("Result")


class Gone(Exception):
    """The client has left."""


async def until_gone(receive: Callable[[], Any], work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`, or Gone as soon as the client has left; `work` is cancelled then."""

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    working, watching = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise Gone
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


def loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def own_names(host: str) -> frozenset[str]:
    """What a server that only this machine reaches may be called by (against DNS rebinding)."""
    return frozenset({"localhost", "127.0.0.1", "::1", host})


def check_caller(host: str, origin: str | None, names: frozenset[str] | None) -> None:
    """ApiError 403 for pages of other sites, and (where `names` are given) for names that are not ours."""
    if origin is not None and urlsplit(origin).netloc != host:
        raise ApiError(403, "pages of other sites may not ask this server", code="cross_origin")
    if names is not None and _name(host) not in names:
        raise ApiError(403, f"this server is not called {_name(host)!r:.80}", code="unknown_host")


def given_key(authorization: str, x_api_key: str) -> str:
    """The API key in a request's headers, empty if there is none."""
    scheme, _, given = authorization.partition(" ")
    return x_api_key or (given.strip() if scheme.lower() == "bearer" else "")


def _name(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


class Draining(Protocol):
    """What is under way in a server."""

    draining: bool
    """Set when it is told to end: nothing new is begun."""

    @property
    def active(self) -> int: ...

    def stop_soon(self) -> None:
        """The time is over."""


async def crowded(scope: Scope, receive: Receive, send: Send) -> None:
    """What answers on a connection too many."""
    error = ApiError(503, "too many connections; come again later", code="overloaded", retry_after=1)
    named = scope["path"].startswith("/v1/messages")
    body = json.dumps(error.anthropic() if named else error.openai()).encode()
    headers = [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    headers += [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Connection(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """A client that sends its request drop by drop, or reads no answer, holds a connection for a time that ends."""

    _late: asyncio.TimerHandle | None = None
    _stuck: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > 2 * CONNECTIONS:
            transport.abort()
        elif len(self.connections) > CONNECTIONS:
            self.app = crowded
        self._late = self.loop.call_later(HEAD, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._late, self._stuck = _stopped(self._late), _stopped(self._stuck)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._late = _stopped(self._late)
        elif self._late is None:
            self._late = self.loop.call_later(HEAD, self.transport.abort)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stuck = self.loop.call_later(UNREAD, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stuck = _stopped(self._stuck)


def _stopped(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    if timer is not None:
        timer.cancel()
    return None


class Server(uvicorn.Server):
    """Signals are `until_drained`'s."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def configured(app: Any, host: str, port: int, **more: Any) -> Server:
    """uvicorn as all our servers have it. Lets this process open as many files as its connections need, where it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * CONNECTIONS if hard == resource.RLIM_INFINITY else min(4 * CONNECTIONS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return Server(
        uvicorn.Config(
            app, host=host, port=port, log_level="warning", access_log=False, server_header=False,
            http=Connection, timeout_keep_alive=75, timeout_graceful_shutdown=LEAVING, **more,
        )
    )  # fmt: skip


def run(work: Coroutine[Any, Any, None]) -> None:
    """As asyncio.run, on uvloop where it is installed: an event of a stream costs about half the processor time on it."""
    try:
        import uvloop
    except ModuleNotFoundError:
        asyncio.run(work)
        return
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)


def shown(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def until_drained(server: uvicorn.Server, service: Draining, seconds: float) -> None:
    """Serves until SIGTERM or SIGINT, then until nothing is under way or `seconds` are over. A second signal ends it at once."""
    loop, told = asyncio.get_running_loop(), asyncio.Event()

    def stop() -> None:
        if told.is_set():
            server.should_exit = server.force_exit = True
        service.draining = True
        told.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    serving = asyncio.ensure_future(server.serve())
    waiting = asyncio.ensure_future(told.wait())
    await asyncio.wait((serving, waiting), return_when=asyncio.FIRST_COMPLETED)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while service.active and not serving.done() and not server.should_exit:
                await asyncio.sleep(0.05)
    service.stop_soon()
    server.should_exit = True
    await serving
    waiting.cancel()
