"""What comes to the ledger, and what it tells those who wait."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from trivium.rollout.log import HELD, IDLE, PROMOTED, ROLLED_BACK, RUNNING, Event, State
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
    seen: Seen | None
    """None once it is measured."""
    mirror: Seen | None = None
    turns: list[dict[str, str]] | None = None
    """What was asked, where the user lets it be kept."""
    gained: dict[str, Any] = field(default_factory=lambda: {"metrics": {}, "unmeasured": True})
    """What was found in the bytes."""
    told = None
    """Nobody waits to hear of it."""


@dataclass
class Judged:
    """What a judge said of a reply."""

    event: Event
    told = None


@dataclass
class Vote:
    """Feedback, and who waits to hear what became of it: `joins` once it is on the disk."""

    event: Event
    told: asyncio.Future[str]


@dataclass
class Order:
    """A person's action."""

    action: str
    reason: str
    who: str
    stage: int | None
    told: asyncio.Future[Answer]


def settle(future: asyncio.Future[Any], result: Any) -> None:
    """Tells who waits, with an exception by raising it."""
    if future.done():  # who waited has gone
        return
    if isinstance(result, BaseException):
        future.set_exception(result)
    else:
        future.set_result(result)


def done_already(state: State, action: str, stage: int | None) -> bool:
    """Whether a person's action has been done. Refused where it makes no sense."""
    done = {"promote": PROMOTED, "roll back": ROLLED_BACK, "hold": HELD, "resume": RUNNING}[action]
    if state.status == done or (action == "promote" and stage is not None and stage < state.stage):
        return True
    if state.status == IDLE or (action != "roll back" and state.status not in (RUNNING, HELD)):
        raise Refused(f"nothing can be done: the rollout is {state.status}")
    if stage is not None and stage > state.stage:
        raise Refused(f"the rollout is in stage {state.stage + 1}, not in {stage + 1}")
    return False
