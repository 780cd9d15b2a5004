"""What every server of ours does: who may ask at all, clients that go away, and an end that lets replies finish. No torch."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import signal
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import uvicorn

from trivium.serve.problems import ApiError

CONNECTIONS = 1000
"""Connections at once; uvicorn answers more with 503."""
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


class Server(uvicorn.Server):
    """Signals are `until_drained`'s."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def configured(app: Any, host: str, port: int, **more: Any) -> Server:
    return Server(
        uvicorn.Config(
            app, host=host, port=port, log_level="warning", access_log=False, server_header=False,
            limit_concurrency=CONNECTIONS, timeout_keep_alive=75, timeout_graceful_shutdown=LEAVING, **more,
        )
    )  # fmt: skip


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
