"""The router: bare ASGI in front of two arms. What it passes on are the arm's own bytes; what it learns goes to the ledger.

A request that the candidate fails before its first byte is answered by stable and counted against the candidate: nobody loses a
reply that stable could give. Requests that do not say whose they are go to stable and prove nothing.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trivium.rollout import replies
from trivium.rollout.admin import Admin
from trivium.rollout.asked import Asked, asked, pseudonym
from trivium.rollout.assign import STABLE, Split
from trivium.rollout.ledger import Ledger
from trivium.rollout.log import share_said
from trivium.rollout.replies import Seen
from trivium.rollout.upstream import Failed, Headers, Opened, Out, Upstream
from trivium.serve.keys import Keys
from trivium.serve.problems import ApiError
from trivium.serve.process import PAGE_HEADERS, Gone, check_caller, given_key, until_gone

log = logging.getLogger("trivium.rollout")
ASIDE = ("/tokenize", "/detokenize", "/v1/messages/count_tokens")
"""Routes that go to the unit's arm, too, and are not measured."""
MODELS = "/v1/models"
PAGE = {
    "/rollout": ("page.html", "text/html; charset=utf-8"),
    "/rollout/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
"""The page for people: it holds no data, and asks for a key where one is needed."""
MOST = 32_000_000
"""Bytes of a request."""
SLOW = 30.0
"""Seconds that a body may take to arrive."""
MIRRORED = 64
"""Copies under way at once in a shadow stage; more are not made, and counted."""
REQUEST = b"x-trivium-request"
"""Header of a reply: what feedback calls it."""
Message = dict[str, Any]
Send = Callable[[Message], Any]
Receive = Callable[[], Any]


@dataclass(frozen=True)
class _Place:
    """Where a request goes, and what the log calls it."""

    id: str
    unit: str | None
    """None: it is not counted."""
    arm: str
    split: Split
    mirrored: tuple[str, ...] = ()
    """Candidates that get a copy."""
    instead_of: str | None = None
    """The candidate whose unit it is, where that is out."""
    beside: bool = False
    """It is there to be compared."""


@dataclass
class Router:
    """One rollout's traffic. `names`: what it may be called by where only this machine reaches it; `keys`: of clients."""

    ledger: Ledger
    arms: dict[str, Upstream]
    admin: Admin
    keys: Keys | None = None
    names: frozenset[str] | None = None
    draining: bool = False
    counts: dict[str, int] = field(
        default_factory=lambda: {"requests": 0, "unnamed": 0, "retried": 0, "unmirrored": 0}
    )
    """`unnamed` requests do not say whose they are; `retried` ones were answered by stable in the candidate's place."""
    _active: int = 0
    _mirrors: set[asyncio.Task[None]] = field(default_factory=set)
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def active(self) -> int:
        return self._active + len(self._mirrors)

    def stop_soon(self) -> None:
        for task in self._mirrors:
            task.cancel()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        path, headers = scope["path"], scope["headers"]
        try:
            named = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
            check_caller(named.get("host", ""), named.get("origin"), self.names)
            if path in ("/health", "/ready"):
                await self._ready(path, send)
            elif path in PAGE:
                await send_page(send, path)
            elif path in replies.REPLIES or path in ASIDE or path == MODELS or path.startswith(MODELS + "/"):
                self._check_key(named)
                await self._proxied(scope, named, receive, send)
            else:
                body = await _body(receive, 1_000_000)
                query = scope["query_string"].decode("latin-1")
                answer = self.admin.answer(scope["method"], path, named, body, self, query)
                await send_json(send, *await answer)
        except ApiError as error:
            shape = error.anthropic() if path.startswith(replies.MESSAGES) else error.openai()
            await send_json(send, error.status, shape, error.headers)
        except Gone:
            pass
        except Exception:
            log.exception("%s failed", path)
            await send_json(send, 500, ApiError(500, "something went wrong here", code="internal").openai())

    def _check_key(self, headers: dict[str, str]) -> None:
        if self.keys is None:
            return
        key = given_key(headers.get("authorization", ""), headers.get("x-api-key", ""))
        if self.keys.owner(key) is None:
            raise ApiError(401, "this server needs a valid API key", code="invalid_api_key")

    async def _ready(self, path: str, send: Send) -> None:
        well = path == "/health" or not self.draining
        await send_json(send, 200 if well else 503, {"status": "ok" if well else "draining"})

    async def _proxied(self, scope: Message, named: dict[str, str], receive: Receive, send: Send) -> None:
        if self.draining:
            raise ApiError(503, "this router is about to end", code="draining", retry_after=1)
        self._active += 1
        try:
            body = await _body(receive, MOST)
            question = asked(scope["path"], named, body, self.ledger.plan)
            await until_gone(receive, self._answer(question, scope, send))
        finally:
            self._active -= 1

    def _place(self, question: Asked) -> _Place:
        """The arm of a request: a pure function of the plan, the unit, and the shares that hold now."""
        plan, split, name = self.ledger.plan, self.ledger.split, secrets.token_hex(12)
        unit = name if plan.unit == "request" else question.unit
        counts = question.route in replies.REPLIES
        self.counts["requests"] += counts
        if unit is None or question.route.startswith(MODELS):
            self.counts["unnamed"] += counts
            return _Place(name, None, STABLE, split)
        if unit in plan.excluded:
            return _Place(name, None, STABLE, split)
        salt = plan.salt or plan.name
        copies = tuple(each for each in self.ledger.state.mirrored if each not in split.out)
        arm, instead_of = split.arm(salt, unit, plan.slots)
        known = name if plan.unit == "request" else pseudonym(salt, unit)
        if question.beside and counts:
            return _Place(name, known, STABLE, split, beside=True)
        return _Place(name, known if counts else None, arm, split, copies, instead_of)

    async def _answer(self, question: Asked, scope: Message, send: Send) -> None:
        place = self._place(question)
        path = scope["raw_path"].decode("latin-1") + ("?" + scope["query_string"].decode("latin-1")).rstrip(
            "?"
        )
        if place.unit is not None:
            self.ledger.begin(place.id)
        failed, opened, left, noted = None, None, True, ""
        try:
            opened, failed = await self._open(place.arm, scope["method"], path, scope["headers"], question)
            if isinstance(failed, Out):
                place, failed = replace(place, arm=STABLE, instead_of=place.arm), None
            noted = await _passed_on(opened, place.id, send)
            left = False
        except Failed as error:
            left, failed = False, failed or error
            raise ApiError(error.status, error.why, code="no_reply", retry_after=1) from None
        finally:
            if opened is not None:
                opened.close()
            if place.unit is not None:
                seen = _seen(question, None if failed else opened, failed.why if failed else noted, left)
                self._note(place, seen, question, scope, path)

    def _note(self, place: _Place, seen: Seen, question: Asked, scope: Message, path: str) -> None:
        event: dict[str, Any] = {
            "event": "request",
            "id": place.id,
            "unit": place.unit,
            "arm": place.arm,
            "share": share_said(place.split.weights),
        }
        if place.instead_of is not None:
            event["instead_of"] = place.instead_of
        if place.beside:
            event["beside"] = True
        if place.mirrored:
            event["shadow"] = True
        if seen.left:
            event["left"] = True
        self.ledger.ended(event, seen, turns=question.turns if question.consents else None)
        for arm in () if seen.left else place.mirrored:
            if len(self._mirrors) >= MIRRORED:
                self.counts["unmirrored"] += 1
                continue
            # Only now: the copy takes nothing from the one who waited for the reply.
            copy = self._mirror(arm, place, seen, question, scope["method"], path, scope["headers"])
            task = asyncio.create_task(copy)
            self._mirrors.add(task)
            task.add_done_callback(self._mirrors.discard)

    async def _open(
        self, arm: str, method: str, path: str, headers: Headers, question: Asked
    ) -> tuple[Opened, Failed | None]:
        """A reply's beginning, and why the candidate gave none, where stable answers in its place. Failed: nobody does."""
        if arm == STABLE:
            return await self.arms[STABLE].ask(method, path, headers, question), None
        try:
            still = functools.partial(self._asks, arm)
            return await self.arms[arm].ask(method, path, headers, question, strict=True, still=still), None
        except Failed as failed:
            self.counts["retried"] += not isinstance(failed, Out)
            try:
                return await self.arms[STABLE].ask(method, path, headers, question), failed
            except Failed as error:
                error.why = f"{error.why}; before that, of the candidate: {failed.why}"
                raise

    def _asks(self, arm: str) -> bool:
        return self.ledger.split.asks(arm)

    async def _mirror(
        self, arm: str, place: _Place, stable: Seen, question: Asked, method: str, path: str, headers: Headers
    ) -> None:
        """The same request to a candidate; its answer is measured and thrown away."""
        opened, why = None, ""
        try:
            still = functools.partial(self._asks, arm)
            opened = await self.arms[arm].ask(method, path, headers, question, still=still)
            async for _ in opened.rest():
                pass
        except Out:
            return
        except Failed as failed:
            why = failed.why
        finally:
            if opened is not None:
                opened.close()
        share = share_said(place.split.weights)
        event = {"event": "mirrored", "id": place.id, "unit": place.unit, "arm": arm, "share": share}
        self.ledger.ended(event, stable, _seen(question, opened, why, False))


async def _passed_on(opened: Opened, request: str, send: Send) -> str:
    """Sends a reply as it comes. Returns why it broke off, or nothing; the client's connection then breaks off, too."""
    headers = [*opened.headers, (REQUEST, request.encode())]
    await send({"type": "http.response.start", "status": opened.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"".join(opened.head), "more_body": not opened.ended})
    if opened.ended:
        return ""
    try:
        async for data in opened.rest():
            await send({"type": "http.response.body", "body": data, "more_body": True})
    except Failed as failed:
        return failed.why
    await send({"type": "http.response.body", "body": b"", "more_body": False})
    return ""


def _seen(question: Asked, opened: Opened | None, why: str, left: bool) -> Seen:
    if opened is None:
        return Seen(question.route, question.streamed, 0, failed=why, left=left and not why)
    words = question.words[-replies.JUDGED :]
    return Seen(
        question.route, opened.streamed, opened.status, opened.content_type, tuple(opened.chunks), opened.took, why, left,
        opened.readable, words, opened.price,
    )  # fmt: skip


async def _body(receive: Receive, most: int) -> bytes:
    """A body of at most `most` bytes that comes in time. ApiError 413, 408; Gone."""
    data = bytearray()
    try:
        async with asyncio.timeout(SLOW):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Gone
                data += message.get("body", b"")
                if len(data) > most:
                    raise ApiError(413, f"the body has more than {most:,} bytes", code="body_too_large")
                if not message.get("more_body", False):
                    return bytes(data)
    except TimeoutError:
        raise ApiError(408, f"the body did not come within {SLOW:g} s", code="slow_body") from None


async def send_page(send: Send, path: str) -> None:
    name, kind = PAGE[path]
    await _send(send, 200, Path(__file__).with_name(name).read_bytes(), {"content-type": kind} | PAGE_HEADERS)


async def send_json(send: Send, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
    body = json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    await _send(send, status, body, {"content-type": "application/json"} | (headers or {}))


async def _send(send: Send, status: int, body: bytes, headers: dict[str, str]) -> None:
    head = [(name.lower().encode(), text.encode()) for name, text in headers.items()]
    head.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body, "more_body": False})
