"""What comes to the ledger, and what it tells those who wait."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from trivium.rollout.log import Event
from trivium.rollout.replies import Seen


class Refused(Exception):
    """An action that is not defined now; the text says why."""


@dataclass(frozen=True)
class Answer:
    """What became of an action. `again`: it had been done before, and no second row was written."""

    verdict: Event | None
    again: bool


@dataclass
class Exchange:
    """A request that has ended and is not measured yet; `mirror`: the candidate's answer to the copy, in a shadow stage."""

    event: Event
    seen: Seen
    mirror: Seen | None = None
    turns: list[dict[str, str]] | None = None
    """What was asked, where the user lets it be kept."""
    gained: dict[str, Any] = field(default_factory=lambda: {"metrics": {}, "unmeasured": True})
    """What was found in the bytes."""


@dataclass
class Vote:
    """Feedback, and who waits to hear what became of it: `joins` once it is on the disk."""

    event: Event
    fate: asyncio.Future[str]


@dataclass
class Order:
    """A person's action."""

    action: str
    reason: str
    who: str
    stage: int | None
    answer: asyncio.Future[Answer]


def settle(future: asyncio.Future[Any], result: Any) -> None:
    """Tells who waits, with an exception by raising it."""
    if future.done():  # who waited has gone
        return
    if isinstance(result, BaseException):
        future.set_exception(result)
    else:
        future.set_result(result)
