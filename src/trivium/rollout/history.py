"""How the evidence has moved: points for the page. A fold over the log like the state, so a restart shows the same curves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from trivium.rollout.assign import STABLE
from trivium.rollout.log import Event, State
from trivium.rollout.status import finite

MOST = 400
"""Points that are kept; where there are more, every second one goes and the pace halves."""


@dataclass
class History:
    """Points a second apart at first: t, stage, share, requests by arm so far, and per guardrail what `_point` says."""

    points: list[dict[str, Any]] = field(default_factory=list)
    pace: float = 1.0
    """Seconds between two points."""
    requests: dict[str, int] = field(default_factory=dict)

    def note(self, state: State, event: Event) -> None:
        """After `state` has taken `event`."""
        if event["event"] == "started":
            assert state.plan is not None
            self.points, self.pace = [], 1.0
            self.requests = dict.fromkeys((*state.plan.candidates, STABLE), 0)
        if event["event"] == "request" and event["arm"] in self.requests:
            self.requests[event["arm"]] += 1
        last = self.points[-1] if self.points else None
        if last is not None and state.now - last["t"] < self.pace and event["event"] != "verdict":
            return
        self.points.append(self._point(state))
        if len(self.points) > MOST:
            self.points, self.pace = self.points[::2], self.pace * 2

    def now(self, state: State) -> list[dict[str, Any]]:
        """The points, and where things stand."""
        return self.points if state.plan is None else [*self.points, self._point(state)]

    def _point(self, state: State) -> dict[str, Any]:
        """Of each guardrail: the difference of this stage's means with its interval, and both log e-values."""
        assert state.plan is not None
        guardrails = {}
        for name, watch in state.watches.items():
            low, high = watch.means.interval(state.plan.alpha)
            guardrails[name] = {
                "difference": finite(watch.means.difference),
                "low": finite(low),
                "high": finite(high),
                "harm": finite(watch.harm),
                "within": finite(watch.within),
            }
        return {
            "t": round(state.now, 3), "stage": state.stage, "share": state.share, "requests": dict(self.requests),
            "guardrails": guardrails,
        }  # fmt: skip


def folded(events: Iterable[Event]) -> tuple[State, History]:
    """State and history after all events."""
    state, history = State(), History()
    for event in events:
        state.apply(event)
        history.note(state, event)
    return state, history
