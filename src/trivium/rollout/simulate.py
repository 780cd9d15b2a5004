"""Traffic made up or recorded, through the same assignment, evidence and policy as the real one: what a plan would decide.

Also `replay`: the verdicts of a log, worked out again from its events alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from trivium.errors import ArtifactError
from trivium.rollout.assign import STABLE
from trivium.rollout.log import RUNNING, Event, State, share_said
from trivium.rollout.plan import RolloutPlan
from trivium.rollout.policy import Decision, decide
from trivium.rollout.traffic import Source


@dataclass(frozen=True)
class Outcome:
    """How one simulated rollout ended."""

    status: str
    stage: int
    requests: int
    """Until the last verdict, or all of them."""
    candidate_requests: int
    exposed_users: int
    reason: str
    chosen: str | None = None
    """The candidate that got everything."""
    out: frozenset[str] = frozenset()
    """Candidates that were rolled back."""


def simulate(plan: RolloutPlan, source: Source) -> Outcome:
    """Plays requests until the plan promotes to everything or rolls all back, or there are no more of them."""
    state, exposed, answered, count = State(), set(), 0, 0
    state.apply({"t": 0.0, "event": "started", "plan": plan.model_dump(mode="json")})
    state.apply({"t": 0.0, "event": "window", "open": True})  # played traffic has no calendar
    for request in _requests(plan, source, state):
        count += 1
        if request["arm"] != STABLE:
            answered += 1
            exposed.add(request["unit"])
        score = request["metrics"].pop("score", None)
        state.apply(request)
        if score is not None:
            known = {name: request[name] for name in ("t", "id", "unit", "arm", "share")}
            state.apply({**known, "event": "judged", "value": score})
        decision = decide(state)
        if decision is not None and decision.action != "hold":
            state.apply(verdict(state, decision))
            if not state.under_way:
                break
    reason = state.verdicts[-1]["reason"] if state.verdicts else ""
    if state.status == RUNNING:
        decision = decide(state)
        reason = decision.reason if decision else reason
    return Outcome(
        state.status, state.stage, count, answered, len(exposed), reason, state.chosen, frozenset(state.out)
    )


def _requests(plan: RolloutPlan, source: Source, state: State) -> Iterator[Event]:
    """One request after the other, each assigned with the shares that the state has at that moment."""
    salt = f"{plan.salt or plan.name}-{source.seed}"
    for number, call in enumerate(source.calls(plan)):
        unit = f"request-{number}" if plan.unit == "request" else call.user
        arm, instead_of = state.split.arm(salt, unit, plan.slots)
        if unit in plan.excluded:
            arm = STABLE
        yield {
            "t": call.t,
            "event": "request",
            "id": str(number),
            "unit": unit,
            "arm": arm,
            "share": share_said(state.weights),
            "metrics": call.answer(arm),
        } | ({} if instead_of is None else {"instead_of": instead_of})


def verdict(state: State, decision: Decision, by: str = "policy") -> Event:
    """The event that writes a decision into the log."""
    return {
        "t": state.now,
        "event": "verdict",
        "action": decision.action,
        "reason": decision.reason,
        "numbers": decision.numbers,
        "stage": state.stage,
        "by": by,
    } | ({} if decision.arm is None else {"arm": decision.arm})


def replay(events: Iterable[Event]) -> Iterator[tuple[Event, Decision | None]]:
    """The verdicts of a log, each with what the policy decides from the events before it. ArtifactError where they disagree.

    Verdicts of people are not the policy's and come with None.
    """
    state = State()
    for event in events:
        if event["event"] == "verdict":
            decision = decide(state) if event["by"] == "policy" else None
            says, again = _said(event["action"], event.get("arm")), "nothing"
            if decision is not None:
                again = _said(decision.action, decision.arm if "arm" in event else None)
            if event["by"] == "policy" and again != says:
                raise ArtifactError(
                    f"the log says {says!r} at {event['t']:.3f} s and its events say {again!r}",
                    fix="the log was changed, or written by another version of the policy",
                )
            yield event, decision
        state.apply(event)


def _said(action: str, arm: str | None) -> str:
    return action if arm is None else f"{action} {arm}"
