"""One attempt at one arm: until its first byte it can still go elsewhere, from then on it is the client's."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from yarl import URL

from trivium.errors import RecipeError
from trivium.rollout import replies
from trivium.rollout.asked import Asked
from trivium.rollout.breaker import Breaker
from trivium.rollout.plan import Arm

WHOLE = 64_000_000
"""Bytes of a reply that is not streamed which are waited for; more go on as they come."""
OPENING = 65_536
"""Bytes in which a stream's first event must have come."""
CONNECT = 5.0
"""Seconds to connect."""
HOPS = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding upgrade".split()
)
"""Headers between two neighbours only (RFC 9110, 7.6.1)."""
Headers = list[tuple[bytes, bytes]]
Still = Callable[[], bool]
"""Whether the arm may be asked, now."""


def always() -> bool:
    return True


async def fence(_: aiohttp.ClientSession, context: Any, __: aiohttp.TraceRequestHeadersSentParams) -> None:
    """Called once there is a connection, which may have taken seconds, and before the first byte goes out on it."""
    if not context.trace_request_ctx():
        raise Out("rolled back meanwhile", 503)


class Failed(Exception):
    """Nothing came that could be passed on."""

    def __init__(self, why: str, status: int = 502) -> None:
        super().__init__(why)
        self.why, self.status = why, status


class Out(Failed):
    """The arm was rolled back before a byte of the request had gone out: it was not asked."""


@dataclass
class Opened:
    """A reply of which the beginning is there: all of it where it is not streamed."""

    response: aiohttp.ClientResponse
    began: float
    """`time.monotonic` of the request."""
    streamed: bool
    price: tuple[float, float] | None = None
    """As `Seen` has it."""
    fault: str | None = None
    """Why it is no good reply, so far."""
    ended: bool = False
    """All its bytes are there."""
    head: list[bytes] = field(default_factory=list)
    """The beginning."""
    chunks: list[tuple[float, bytes]] = field(default_factory=list)
    """What came so far, with seconds from the request on; nothing of a reply that is too long to be looked at."""
    size: int = 0
    took: float = 0.0

    @property
    def status(self) -> int:
        return self.response.status

    @property
    def headers(self) -> Headers:
        named = {
            name.strip().lower().encode() for name in self.response.headers.get("connection", "").split(",")
        }
        return [
            (name.lower(), value)
            for name, value in self.response.raw_headers
            if name.lower() not in HOPS and name.lower() not in named
        ]

    @property
    def content_type(self) -> str:
        return self.response.headers.get("content-type", "")

    @property
    def readable(self) -> bool:
        """Whether the bytes can be looked at."""
        encoded = self.response.headers.get("content-encoding", "identity")
        return encoded == "identity" and self.size <= replies.MOST

    def took_in(self, data: bytes) -> None:
        self.took = time.monotonic() - self.began
        self.size += len(data)
        if self.size <= replies.MOST:
            self.chunks.append((self.took, data))
        else:
            self.chunks.clear()

    async def rest(self) -> AsyncIterator[bytes]:
        """What comes after the beginning. Failed where the arm breaks off or falls silent."""
        if self.ended:
            return
        try:
            async for data in self.response.content.iter_any():
                self.took_in(data)
                yield data
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Failed(_why(error)) from None
        self.ended = True
        self.took = time.monotonic() - self.began

    def close(self) -> None:
        """Leaves the arm, which notices at once where it was not done."""
        if self.ended:
            self.response.release()
        else:
            self.response.close()


class Upstream:
    """An arm, and whether it is asked at all."""

    def __init__(self, name: str, arm: Arm, session: aiohttp.ClientSession) -> None:
        """RecipeError where the arm's key is not in the environment."""
        self.name, self.arm, self.session = name, arm, session
        self.breaker, self.open = Breaker(), 0
        self.key = os.environ.get(arm.key, "") if arm.key else None
        if self.key == "":
            raise RecipeError(
                f"the {name} arm's key is not there", where=f"arms.{name}.key", fix=f"export {arm.key}=..."
            )

    async def ask(
        self,
        method: str,
        path: str,
        headers: Headers,
        asked: Asked,
        *,
        strict: bool = False,
        still: Still = always,
    ) -> Opened:
        """The beginning of a reply. Failed where none comes, or (`strict`) where what comes is no good reply; Out where `still`
        says no just before the request goes out."""
        if not self.breaker.ask(time.monotonic()):
            raise Failed(f"the {self.name} arm rests after failures in a row", 503)
        try:
            try:
                opened = await self._ask(method, path, headers, asked, still)
            except (aiohttp.ServerDisconnectedError, ConnectionResetError):  # one that had been idle too long
                opened = await self._ask(method, path, headers, asked, still)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self.breaker.failed(time.monotonic())
            raise Failed(_why(error), 504 if isinstance(error, TimeoutError) else 502) from None
        except BaseException:
            self.breaker.gave_up()
            raise
        if opened.status >= 500 or (opened.status < 400 and opened.fault):
            self.breaker.failed(time.monotonic())
        else:
            self.breaker.succeeded()
        if strict and opened.fault:
            opened.close()
            raise Failed(opened.fault, opened.status)
        return opened

    async def _ask(self, method: str, path: str, headers: Headers, asked: Asked, still: Still) -> Opened:
        body = asked.bytes_for(self.arm.model)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT, sock_read=self.arm.patience)
        began = time.monotonic()
        response = await self.session.request(
            method, URL(self.arm.url + path, encoded=True), data=body or None, headers=self._headers(headers), timeout=timeout,
            allow_redirects=False, trace_request_ctx=still,
        )  # fmt: skip
        streamed = asked.streamed and response.status < 400
        price = self.arm.price
        opened = Opened(response, began, streamed, None if price is None else (price.input, price.output))
        try:
            await self._begin(opened)
        except BaseException:
            response.close()
            raise
        if opened.status >= 400:
            opened.fault = f"status {opened.status}"
        elif opened.readable:
            beginning = b"".join(opened.head)
            opened.fault = replies.first_fault(asked.route, opened.content_type, streamed, beginning)
        return opened

    async def _begin(self, opened: Opened) -> None:
        async for data in opened.response.content.iter_any():
            opened.took_in(data)
            opened.head.append(data)
            if opened.streamed:
                if opened.size > OPENING or next(replies.events(b"".join(opened.head)), None) is not None:
                    return
            elif opened.size > WHOLE:
                return
        opened.ended = True
        opened.took = time.monotonic() - opened.began

    def _headers(self, headers: Headers) -> dict[str, str]:
        """The client's, without what stands between neighbours only; nothing that could not be looked at is asked for."""
        named = {
            part.strip().lower()
            for name, value in headers
            if name == b"connection"
            for part in value.split(b",")
        }
        left_out = HOPS | named | {b"host", b"content-length", b"accept-encoding", b"expect", b"origin"}
        kept = {n.decode("latin-1"): v.decode("latin-1") for n, v in headers if n not in left_out}
        kept["accept-encoding"] = "identity"
        if self.key is not None:
            kept.pop("x-api-key", None)
            kept |= {"authorization": f"Bearer {self.key}", "x-api-key": self.key}
        return kept


def _why(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "silence for too long"
    return f"{type(error).__name__}: {error}"[:200] if str(error) else type(error).__name__
