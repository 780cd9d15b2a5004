"""What answers behind the web side: our own engine, llama.cpp in a process of its own, or a server elsewhere. No torch."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

from trivium.serve.metrics import Metrics
from trivium.serve.problems import ApiError
from trivium.serve.wire import Wire


@dataclass(frozen=True)
class Limits:
    """What a server takes on. Times in seconds."""

    tokens: int = 16384  # memory for keys and values
    chunk: int = 256  # tokens of prompts that are read between two steps
    running: int = 32  # sequences at once
    queue: int = 256  # sequences that wait; more are told to come again
    deadline: float = 600.0  # of a request, from its arrival
    body: int = 4 << 20  # bytes of a request
    drain: float = 30.0  # for replies under way when the server is told to stop


@dataclass
class Call:
    """A request of a client while it is answered: what it has cost so far, in tokens."""

    path: str
    client: str | None = None
    model: str = ""
    prompt: int = 0
    reply: int = 0
    spent: int = 0  # of both, what its key has been charged already
    status: int = 0


CALL: ContextVar[Call | None] = ContextVar("call", default=None)
"""The one that is being answered; engines add what it costs."""


class Named(Protocol):
    """What answers to a name."""

    name: str


class Engine(Protocol):
    """Answers requests that were read and checked. `body` is what was understood of a request, `raw` all of its JSON."""

    name: str
    """What clients call the model."""
    started: int
    """Seconds since 1970."""
    limits: Limits
    metrics: Metrics
    draining: bool
    """Set when it is told to end: nothing new is begun."""

    @property
    def room(self) -> int | None:
        """Tokens of a prompt with its reply; None where nobody knows."""
        ...

    @property
    def ready(self) -> bool: ...

    @property
    def broken(self) -> str | None:
        """Why it will not answer any more."""
        ...

    @property
    def active(self) -> int:
        """Replies that wait or are being written."""
        ...

    def start(self) -> None:
        """Inside a running event loop."""

    def stop_soon(self) -> None:
        """The time is over: replies under way are ended."""

    def stop(self) -> None:
        """Ends everything that it started; may take a while."""

    async def whole(self, path: str, body: Wire, raw: Mapping[str, Any]) -> dict[str, Any]:
        """The answer. ApiError where there is none."""
        ...

    def stream(self, path: str, body: Wire, raw: Mapping[str, Any]) -> AsyncGenerator[str]:
        """The answer as events; closing it ends the work. ApiError as above, before the first event where it can be known."""
        ...


def check_model(engine: Named, name: str) -> None:
    """ApiError 404 for a model that is not there."""
    if name != engine.name:
        raise ApiError(
            404, f"there is no model {name!r}; this server has {engine.name!r}", param="model",
            code="model_not_found",
        )  # fmt: skip
