"""What an arm's bytes amount to: the metrics of one reply, in the words of any of the four APIs. Pure.

What is no number stays away: a metric that cannot be known of this reply is None, which neither promotes nor rolls back.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from trivium.verify.refusal import refuses
from trivium.verify.replies import repetition, words

MOST = 4_000_000
"""Bytes of a reply that are looked at; of one with more only its times are known."""
REPEATED = 0.5
"""Share of the runs of four words that came before, from which on a reply `repeated` itself (with 40 words at least)."""
JUDGED = 2000
"""Characters of a reply and of a request that the rules on refusals read: a reply declines at its beginning."""
LIMITS = ("length", "max_tokens", "max_output_tokens", "model_context_window_exceeded")
"""How the APIs say that a reply was cut by a limit."""

CHAT, COMPLETIONS, RESPONSES, MESSAGES = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
)
REPLIES = (CHAT, COMPLETIONS, RESPONSES, MESSAGES)
"""The routes whose replies are measured."""

Chunks = Sequence[tuple[float, bytes]]
"""Seconds from the request on, and the bytes that came then."""


class NotOne(ValueError):
    """These bytes are no reply; the text says why."""


@dataclass
class Reply:
    """What was found in the bytes."""

    texts: dict[int, str] = field(default_factory=dict)
    """By choice."""
    acts: bool = False
    """It calls a tool, so that it need not say anything."""
    declined: bool = False
    """The API's own field for a refusal is filled."""
    end: str | None = None
    """The last reason to stop."""
    whole: bool = False
    """Its end was seen."""
    cut: bool = False
    first: float | None = None
    """Seconds to the first piece of text or of a call."""
    used: tuple[int, int] | None = None
    """Tokens of the prompt and of the reply, as the arm counts them."""

    def say(self, choice: int, text: Any, at: float) -> None:
        self.texts.setdefault(choice, "")
        if isinstance(text, str) and text:
            self.texts[choice] += text
            self.first = at if self.first is None else self.first

    def act(self, at: float) -> None:
        self.acts = True
        self.first = at if self.first is None else self.first

    def stop(self, reason: Any) -> None:
        if isinstance(reason, str):
            self.end, self.whole = reason, True
            self.cut |= reason in LIMITS
            self.declined |= reason in ("refusal", "content_filter")

    def count(self, usage: Any) -> None:
        if isinstance(usage, dict):
            pairs = (("prompt_tokens", "completion_tokens"), ("input_tokens", "output_tokens"))
            for pair in pairs:
                before = self.used or (0, 0)
                found = [usage.get(name) for name in pair]
                if any(isinstance(number, int) for number in found):
                    given, made = (
                        n if isinstance(n, int) else old for n, old in zip(found, before, strict=True)
                    )
                    self.used = (given, made)


def first_fault(route: str, content_type: str, streamed: bool, body: bytes) -> str | None:
    """Why the beginning of a reply with status 200 (all of it, or the first event of a stream) is none. None: it is one."""
    try:
        if streamed:
            _is(content_type, "text/event-stream")
            found = next(events(body), None)
            if found is None:
                raise NotOne("a stream without an event")
            _take(route, Reply(), 0.0, *found)
        else:
            _is(content_type, "application/json")
            if route in REPLIES:
                _whole(route, Reply(), 0.0, load(body))
            else:
                load(body)
    except NotOne as error:
        return str(error)
    return None


def read(route: str, content_type: str, streamed: bool, chunks: Chunks) -> Reply:
    """The reply in the bytes. NotOne for garbage, an error inside a 200, another content type or no end."""
    reply = Reply()
    if not streamed:
        _is(content_type, "application/json")
        _whole(route, reply, chunks[-1][0] if chunks else 0.0, load(b"".join(data for _, data in chunks)))
        reply.first = None  # it came in one piece
        return reply
    _is(content_type, "text/event-stream")
    for at, name, data in _timed(chunks):
        _take(route, reply, at, name, data)
    if not reply.whole:
        raise NotOne("the stream stopped before its end")
    return reply


def _is(content_type: str, wanted: str) -> None:
    found = content_type.split(";")[0].strip().lower()
    if found != wanted:
        raise NotOne(f"content type {found or 'missing'} instead of {wanted}")


def load(data: bytes) -> Any:
    """JSON as the standard has it: NotOne for NaN, too."""

    def constant(name: str) -> float:
        raise NotOne(f"{name} inside")

    try:
        return json.loads(data, parse_constant=constant)
    except NotOne:
        raise
    except (ValueError, RecursionError):
        raise NotOne("what came is no JSON") from None


def events(body: bytes) -> Iterator[tuple[str, bytes]]:
    """(name, data) of the events of a stream that have data (WHATWG HTML, 9.2.6); what has not ended is none."""
    for block in body.replace(b"\r\n", b"\n").split(b"\n\n")[:-1]:
        yield from _event(block)


def _event(block: bytes) -> Iterator[tuple[str, bytes]]:
    name, data = "", []
    for line in block.split(b"\n"):
        key, _, value = line.partition(b":")
        if key == b"data":
            data.append(value.removeprefix(b" "))
        elif key == b"event":
            name = value.strip().decode("utf-8", "replace")
    if data:
        yield name, b"\n".join(data)


def _timed(chunks: Chunks) -> Iterator[tuple[float, str, bytes]]:
    """The events, each with the time at which its last byte came."""
    rest = b""
    for at, data in chunks:
        rest = (rest + data).replace(b"\r\n", b"\n")
        *blocks, rest = rest.split(b"\n\n")
        for block in blocks:
            for name, value in _event(block):
                yield at, name, value


def _whole(route: str, reply: Reply, at: float, value: Any) -> None:
    value = _dict(value, "the reply")
    _no_error(value)
    reply.count(value.get("usage"))
    if route in (CHAT, COMPLETIONS):
        choices = value.get("choices")
        if not isinstance(choices, list) or not choices:
            raise NotOne("no choices")
        for number, choice in enumerate(choices):
            choice = _dict(choice, "a choice")
            message = choice if route == COMPLETIONS else _dict(choice.get("message"), "a message")
            _spoken(reply, number, message, at)
            reply.stop(choice.get("finish_reason"))
    elif route == MESSAGES:
        for block in _list(value.get("content"), "content"):
            _block(reply, block, at)
        reply.texts.setdefault(0, "")
        reply.stop(value.get("stop_reason"))
    else:
        _response(reply, value, at)
    reply.whole = True


def _response(reply: Reply, value: dict[str, Any], at: float) -> None:
    for item in _list(value.get("output"), "output"):
        item = _dict(item, "an item")
        if item.get("type") == "message":
            for part in _list(item.get("content"), "content"):
                part = _dict(part, "a part")
                reply.say(0, part.get("text"), at)
                reply.declined |= part.get("type") == "refusal"
        elif item.get("type") != "reasoning":
            reply.act(at)
    reply.texts.setdefault(0, "")
    _status(reply, value)


def _status(reply: Reply, value: dict[str, Any]) -> None:
    if value.get("status") == "incomplete":
        details = value.get("incomplete_details")
        reason = details.get("reason") if isinstance(details, dict) else None
        reply.stop(reason if isinstance(reason, str) else "length")
    elif value.get("status") == "completed":
        reply.stop("stop")
    elif value.get("status") in ("failed", "cancelled"):
        raise NotOne(f"status {value['status']} inside a 200")


def _take(route: str, reply: Reply, at: float, name: str, data: bytes) -> None:
    if data.strip() == b"[DONE]":
        reply.whole |= route in (CHAT, COMPLETIONS)
        return
    value = _dict(load(data), "an event")
    _no_error(value)
    reply.count(value.get("usage"))
    named = value.get("type")
    kind = named if isinstance(named, str) else name
    if name == "error" or kind in ("error", "response.failed"):
        raise NotOne("an error inside the stream")
    if route in (CHAT, COMPLETIONS):
        for choice in _list(value.get("choices"), "choices"):
            choice = _dict(choice, "a choice")
            index = choice.get("index")
            number = index if isinstance(index, int) else 0
            _spoken(reply, number, choice if route == COMPLETIONS else choice.get("delta") or {}, at)
            reply.stop(choice.get("finish_reason"))
        return
    delta = value.get("delta")
    if route == MESSAGES:
        reply.texts.setdefault(0, "")
        if isinstance(value.get("message"), dict):
            reply.count(value["message"].get("usage"))
        if kind == "content_block_start":
            _block(reply, value.get("content_block"), at)
        elif kind == "content_block_delta" and isinstance(delta, dict):
            reply.say(0, delta.get("text"), at)
        elif kind == "message_delta" and isinstance(delta, dict):
            reply.stop(delta.get("stop_reason"))
            reply.whole = False
        reply.whole |= kind == "message_stop"
        return
    reply.texts.setdefault(0, "")
    if kind == "response.output_text.delta":
        reply.say(0, delta, at)
    elif kind == "response.refusal.delta":
        reply.declined = True
    elif kind.startswith("response.function_call_arguments"):
        reply.act(at)
    elif kind in ("response.completed", "response.incomplete"):
        response = _dict(value.get("response"), "a response")
        reply.count(response.get("usage"))
        _status(reply, response)
        reply.whole = True


def _spoken(reply: Reply, number: int, message: Any, at: float) -> None:
    """A message, a delta or a choice of the older API."""
    message = _dict(message, "a message")
    content = message.get("content", message.get("text"))
    if isinstance(content, list):
        content = "".join(part.get("text") or "" for part in content if isinstance(part, dict))
    reply.say(number, content, at)
    if message.get("tool_calls") or message.get("function_call"):
        reply.act(at)
    reply.declined |= bool(message.get("refusal"))


def _block(reply: Reply, block: Any, at: float) -> None:
    block = _dict(block, "a block")
    if block.get("type") == "text":
        reply.say(0, block.get("text"), at)
    elif block.get("type") == "tool_use":
        reply.act(at)


def _no_error(value: dict[str, Any]) -> None:
    if value.get("error"):
        raise NotOne("an error inside a 200")


def _dict(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise NotOne(f"{what} is no object")
    return value


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise NotOne(f"{what} is no list")
    return value


@dataclass(frozen=True)
class Seen:
    """All that is known of an exchange when it has ended. Plain values: it may go to another process."""

    route: str
    streamed: bool
    status: int
    """Of HTTP; 0 where nothing came."""
    content_type: str = ""
    chunks: Chunks = ()
    took: float = 0.0
    """Seconds, to the last byte."""
    failed: str = ""
    """Why no reply came, or not all of it; empty if it did."""
    left: bool = False
    """The client went away before the end."""
    readable: bool = True
    """False for bytes that are compressed or too many."""
    request: str = ""
    """What was asked, for the rules on refusals."""
    price: tuple[float, float] | None = None
    """Of a million tokens of request and reply, at the arm that answered."""


@dataclass(frozen=True)
class Limits:
    """What a plan fixed beforehand, and what it watches."""

    slow_after: float
    slow_start_after: float
    watched: frozenset[str]


def measure(seen: Seen, limits: Limits) -> tuple[dict[str, float | None], str]:
    """Metric -> value (None: not known of this reply), and why it failed, if it did."""
    found, why = _measured(seen, limits)
    return {name: value for name, value in found.items() if name in limits.watched}, why


def _measured(seen: Seen, limits: Limits) -> tuple[dict[str, float | None], str]:
    metrics: dict[str, float | None] = dict.fromkeys(limits.watched)
    metrics["slow"] = int(seen.took > limits.slow_after)
    if seen.left:  # only what it had proven by then is known
        metrics["slow"] = metrics["slow"] or None
        return metrics, ""
    metrics["error"] = 0
    why = seen.failed or (f"status {seen.status}" if seen.status >= 400 else "")
    reply = None
    if not why and seen.readable:
        try:
            reply = read(seen.route, seen.content_type, seen.streamed, seen.chunks)
        except NotOne as error:
            why = str(error)
    if why:
        return dict.fromkeys(limits.watched) | {"error": 1}, why
    metrics["log_latency"] = math.log(max(seen.took, 1e-6))
    if reply is not None:
        metrics |= _of(reply, seen, limits)
    return metrics, ""


def _of(reply: Reply, seen: Seen, limits: Limits) -> dict[str, float | None]:
    texts = list(reply.texts.values())
    says = [text for text in texts if text.strip()]
    found: dict[str, float | None] = {
        "empty": int(not reply.acts and not reply.declined and (len(says) < len(texts) or not texts)),
        "cut": int(reply.cut),
        "repeated": int(any(len(words(text)) >= 40 and repetition(text) >= REPEATED for text in says)),
    }
    if "refusal" in limits.watched:
        asked = seen.request[-JUDGED:]
        found["refusal"] = int(reply.declined or any(refuses(text[:JUDGED], asked) for text in says))
    if reply.used is not None and seen.price is not None:
        found["cost"] = sum(n * price for n, price in zip(reply.used, seen.price, strict=True)) / 1e6
    if seen.streamed and reply.first is not None:
        found["slow_start"] = int(reply.first > limits.slow_start_after)
        found["log_first_token"] = math.log(max(reply.first, 1e-6))
    return found
