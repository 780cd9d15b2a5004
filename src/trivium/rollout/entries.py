"""What comes to the ledger, and what it tells those who wait."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from trivium.rollout.log import HELD, IDLE, PROMOTED, ROLLED_BACK, RUNNING, Event, State
from trivium.rollout.replies import Seen
from trivium.rollout.windows import is_open


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
    edit: str | None = None
    """The words of an edit."""


@dataclass
class Order:
    """A person's action."""

    action: str
    reason: str
    who: str
    stage: int | None
    arm: str | None
    """The candidate that it is about; None: all of them."""
    told: asyncio.Future[Answer]


def pending() -> asyncio.Future[Any]:
    return asyncio.get_running_loop().create_future()


def today() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def due(state: State, now: float) -> Iterator[Event]:
    """What the clocks say: a tick where the plan waits for a time that has come, and where one of its windows opens or closes.
    Else an idle router writes nothing."""
    if state.plan is not None and state.under_way:
        allowed = is_open(state.plan.windows, datetime.now(UTC))
        if allowed != state.open:
            yield {"t": now, "event": "window", "open": allowed, "at": today()}
    if state.due(now):
        yield {"t": now, "event": "tick"}


def settle(future: asyncio.Future[Any], result: Any) -> None:
    """Tells who waits, with an exception by raising it."""
    if future.done():  # who waited has gone
        return
    if isinstance(result, BaseException):
        future.set_exception(result)
    else:
        future.set_result(result)


def done_already(state: State, action: str, stage: int | None, arm: str | None = None) -> bool:
    """Whether a person's action has been done. Refused where it makes no sense."""
    if arm is not None:
        if state.plan is not None and arm not in state.plan.candidates:
            raise Refused(f"there is no candidate {arm}: there are {', '.join(state.plan.candidates)}")
        if action not in ("promote", "roll back"):
            raise Refused(f"{action} is about all candidates")
        if action == "roll back" and arm in state.out:
            return True
    done = {"promote": PROMOTED, "roll back": ROLLED_BACK, "hold": HELD, "resume": RUNNING}[action]
    if state.status == done or (action == "promote" and stage is not None and stage < state.stage):
        return True
    if state.status == IDLE or (action != "roll back" and state.status not in (RUNNING, HELD)):
        raise Refused(f"nothing can be done: the rollout is {state.status}")
    if stage is not None and stage > state.stage:
        raise Refused(f"the rollout is in stage {state.stage + 1}, not in {stage + 1}")
    if action == "promote" and state.last and arm is None and len(state.living) > 1:
        raise Refused(f"one candidate gets all of the traffic: say which, {' or '.join(state.living)}")
    if action == "promote" and arm is not None and (not state.last or arm in state.out):
        why = "was rolled back" if arm in state.out else "goes on with the others until the last stage"
        raise Refused(f"{arm} {why}")
    return False
