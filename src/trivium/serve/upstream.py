"""Any server that speaks OpenAI's protocol as an engine: vLLM, SGLang, llama.cpp, another of ours. What stands in front of it
(keys, limits, strictness, metrics, an end that lets replies finish) is ours; the tokens are its own."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from trivium.generate.connect import checked, headers
from trivium.serve import wire
from trivium.serve.engines import CALL, Call, Limits, check_model
from trivium.serve.metrics import Metrics
from trivium.serve.problems import ApiError
from trivium.serve.wire import Wire

CONNECT = 5.0
"""Seconds to reach it."""
EVENT = 4 << 20
"""Bytes of one event; a longer one is none."""
_LAST = frozenset(
    {"message_stop", "error", "response.completed", "response.incomplete", "response.failed"}
)  # fmt: skip
"""Types of events that end a stream; OpenAI's chat and completions end with [DONE]."""
_COUNTED = ("/v1/chat/completions", "/v1/completions")
"""Streams that tell their tokens only where they are asked to."""
_READ = (b'"usage"', b'"error"', b"[DONE]")
"""What an event has in it that says more than a piece of a reply. In what a model wrote the second mark is escaped."""


class Upstream:
    """An `engines.Engine`: what answers at `url` (with or without `/v1`). `model`: its name there, `name`: for our clients;
    `key`: the environment variable with its API key.

    DataError for an address that is none, and a variable that is not set.
    """

    def __init__(
        self, url: str, model: str, name: str | None = None, key: str | None = None, limits: Limits | None = None,
        metrics: Metrics | None = None,
    ) -> None:  # fmt: skip
        self.url = checked(url).rstrip("/").removesuffix("/v1")
        self.model, self.name = model, name or model
        self.limits, self.metrics = limits or Limits(), metrics or Metrics(self.name)
        self.started, self.draining = int(time.time()), False
        self._headers = headers(key, url)
        self._session: aiohttp.ClientSession | None = None
        self._under_way: set[asyncio.Task[Any]] = set()
        self._active = 0

    own = False
    """Whether it is a child of ours that was told our name for the model: the pieces of its replies go on as they come."""

    @property
    def room(self) -> int | None:
        return None

    @property
    def broken(self) -> str | None:
        return None

    @property
    def ready(self) -> bool:
        return self._session is not None and not self.draining

    @property
    def active(self) -> int:
        return self._active

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), headers={**self._headers, "Accept-Encoding": "identity"},
        )  # fmt: skip

    def stop_soon(self) -> None:
        for task in self._under_way:
            task.cancel()

    def stop(self) -> None:
        if self._session is not None:
            asyncio.run_coroutine_threadsafe(self._session.close(), self._loop).result()

    async def whole(self, path: str, body: Wire, raw: Mapping[str, Any]) -> dict[str, Any]:
        async with self._asked(path, body, raw) as (response, call):
            try:
                answer = json.loads(await response.read())
            except ValueError as error:
                raise _broken(error) from None
            if not isinstance(answer, dict):
                raise _broken("its answer is no object")
            self._count(call, answer)
            return self._renamed(answer)

    async def stream(self, path: str, body: Wire, raw: Mapping[str, Any]) -> AsyncGenerator[str]:
        wanted = bool((raw.get("stream_options") or {}).get("include_usage"))
        if path in _COUNTED:
            raw = {**raw, "stream_options": {**(raw.get("stream_options") or {}), "include_usage": True}}
        last = None
        async with self._asked(path, body, raw) as (response, call):
            began, done = time.monotonic(), False
            async for whole in _whole(response):
                now = time.monotonic()
                (self.metrics.first if last is None else self.metrics.between).observe(now - (last or began))
                last = now
                if self.own and path in _COUNTED and not any(mark in whole for mark in _READ):
                    yield whole.decode("utf-8", "replace")
                    continue
                for kind, data in _events(whole):
                    if data == "[DONE]":
                        yield "data: [DONE]\n\n"
                        return
                    event = _object(data)
                    self._count(call, event)
                    if (
                        path in _COUNTED
                        and not wanted
                        and event.pop("usage", None)
                        and event.get("choices") == []
                    ):
                        continue  # it was us who asked
                    yield wire.event(self._renamed(event), kind or None)
                    done = event.get("type") in _LAST or "error" in event
                    if done and path not in _COUNTED:
                        return
            if not done:
                raise _broken("its stream ends before the reply does")

    @asynccontextmanager
    async def _asked(
        self, path: str, body: Wire, raw: Mapping[str, Any]
    ) -> AsyncIterator[tuple[aiohttp.ClientResponse, Call]]:
        """Its answer to a request, open, with a status of success. ApiError for all else, and at the deadline."""
        if (model := getattr(body, "model", None)) is not None:
            check_model(self, model)
        if self.draining or self._session is None:
            raise ApiError(503, "the server is stopping", code="stopping", retry_after=5)
        if self._active >= self.limits.running + self.limits.queue:
            raise ApiError(
                429,
                f"{self._active} requests are under way; come again later",
                code="queue_full",
                retry_after=1,
            )
        began, limit = time.monotonic(), self.limits.deadline
        self._active += 1
        self.metrics.running.set(self._active)
        finish = "abort"
        try:
            async with self._session.post(
                self.url + path,
                data=json.dumps({**raw, "model": self.model}).encode(),
                allow_redirects=False,
                # the session's clock, not asyncio.timeout: that watches the task that began, and a stream is read by others
                timeout=aiohttp.ClientTimeout(total=limit, sock_connect=CONNECT),
            ) as response:
                if response.status != 200:
                    raise await _refused(response)
                yield response, CALL.get() or Call(path)
            finish = "stop"
        except aiohttp.ConnectionTimeoutError as error:
            raise _broken(error) from None
        except TimeoutError:
            raise ApiError(504, f"no whole reply within {limit:g} s", code="deadline") from None
        except (aiohttp.ClientError, OSError) as error:
            raise _broken(error) from None
        finally:
            self._active -= 1
            self.metrics.running.set(self._active)
            self.metrics.ended.labels(self.name, finish).inc()
            self.metrics.whole.observe(time.monotonic() - began)

    def _count(self, call: Call, answer: Mapping[str, Any]) -> None:
        """Adds what an answer, or an event of it, says of tokens; later events of one stream say the same or more."""
        inner = answer.get("response") or answer.get("message") or answer
        usage = inner.get("usage") if isinstance(inner, dict) else None
        if not isinstance(usage, dict):
            return
        prompt = usage.get("prompt_tokens", usage.get("input_tokens"))
        reply = usage.get("completion_tokens", usage.get("output_tokens"))
        for name, count in (("prompt", prompt), ("reply", reply)):
            if isinstance(count, int) and count > (known := getattr(call, name)):
                setattr(call, name, count)
                self.metrics.sums[f"{'prompt' if name == 'prompt' else 'generation'}_tokens"].inc(
                    count - known
                )

    def _renamed(self, answer: dict[str, Any]) -> dict[str, Any]:
        """The model under the name that our clients know."""
        for part in (answer, answer.get("response"), answer.get("message")):
            if isinstance(part, dict) and "model" in part:
                part["model"] = self.name
        return answer


def _broken(why: object) -> ApiError:
    said = f"{type(why).__name__}: {why}" if isinstance(why, BaseException) else str(why)
    return ApiError(
        502, f"the engine behind this server failed ({said:.200})", code="engine_failed", retry_after=5
    )


def _object(data: str) -> dict[str, Any]:
    try:
        event = json.loads(data)
    except ValueError:
        raise _broken("an event is no JSON") from None
    if not isinstance(event, dict):
        raise _broken("an event is no object")
    return event


async def _whole(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """A stream as it comes, in pieces of one or several whole events. ApiError where it breaks off inside of one."""
    held = b""
    async for piece in response.content.iter_any():
        held += piece
        end = max(held.rfind(b"\n\n") + 2, held.rfind(b"\n\r\n") + 3)
        if end > 2:
            yield held[:end]
            held = held[end:]
        if len(held) > EVENT:
            raise _broken(f"an event has more than {EVENT:,} bytes")
    if held.strip():
        raise _broken("its stream ends in the middle of an event")


def _events(whole: bytes) -> Iterator[tuple[str, str]]:
    """(name, data) of each event."""
    kind, data = "", list[str]()
    for line in (raw.rstrip("\r") for raw in whole.decode("utf-8", "replace").split("\n")):
        name, _, value = line.partition(":")
        if name == "event":
            kind = value.strip()
        elif name == "data":
            data.append(value.removeprefix(" "))
        elif not line and data:
            yield kind, "\n".join(data)
            kind, data = "", []


async def _refused(response: aiohttp.ClientResponse) -> ApiError:
    """What it answers instead of a reply, in our shape: its words where it gives a reason; a failure of its own is a 502."""
    try:
        answer = json.loads(await response.content.read(1 << 16))
        error = answer.get("error", answer)
        said = str(error["message"]) if isinstance(error, dict) else str(error)
        code = "context_length_exceeded" if "exceed" in str(error.get("type")) else error.get("code")
    except (ValueError, LookupError, TypeError, AttributeError):
        said, code = f"it answers {response.status}", None
    status = response.status
    if status in (400, 404, 408, 413, 422, 429, 501, 503):
        wait = response.headers.get("Retry-After", "")
        return ApiError(
            400 if status == 422 else status, said[:2000], code=code if isinstance(code, str) else None,
            param="messages" if code == "context_length_exceeded" else None,
            retry_after=int(wait) if wait.isdigit() and len(wait) < 6 else 5 if status in (429, 503) else None,
        )  # fmt: skip
    return _broken(f"status {status}: {said}")
