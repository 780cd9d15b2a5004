"""Traffic that never was, through the same assignment, evidence and policy as the real one: what a plan would have decided.

Also `replay`: the verdicts of a log, worked out again from its events alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from trivium.errors import ArtifactError
from trivium.rollout.assign import arm_of
from trivium.rollout.log import CANDIDATE, PROMOTED, ROLLED_BACK, RUNNING, Event, State
from trivium.rollout.plan import RolloutPlan
from trivium.rollout.policy import Decision, decide
from trivium.seeds import generator


@dataclass(frozen=True)
class Behaviour:
    """How an arm answers. Probabilities are a reply's; `failing` are users who fail on every request."""

    rates: dict[str, float] = field(default_factory=dict)
    """Event metric -> probability."""
    log_latency: tuple[float, float] = (0.0, 1.0)
    """Mean and standard deviation of the log of the seconds."""
    failing: float = 0.0
    """Share of the users for whom every request is an `error`."""
    score: float = 1.0
    """Probability that a judge, where the plan has one, likes a reply."""


@dataclass(frozen=True)
class Traffic:
    """Requests of a number of users, who come again at random."""

    requests: int
    users: int
    per_second: float
    stable: Behaviour
    candidate: Behaviour
    seed: int = 0


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


def simulate(plan: RolloutPlan, traffic: Traffic) -> Outcome:
    """Plays `traffic` until the plan promotes or rolls back, or there is no more of it."""
    state, exposed, answered, count = State(), set(), 0, 0
    state.apply({"t": 0.0, "event": "started", "plan": plan.model_dump(mode="json")})
    for request in _requests(plan, traffic, state):
        count += 1
        if request["arm"] == CANDIDATE:
            answered += 1
            exposed.add(request["unit"])
        score = request.pop("score")
        state.apply(request)
        if score is not None:
            known = {name: request[name] for name in ("t", "id", "unit", "arm", "share")}
            state.apply({**known, "event": "judged", "value": score})
        decision = decide(state)
        if decision is not None and decision.action != "hold":
            state.apply(verdict(state, decision))
            if state.status in (PROMOTED, ROLLED_BACK):
                break
    reason = state.verdicts[-1]["reason"] if state.verdicts else ""
    if state.status == RUNNING:
        decision = decide(state)
        reason = decision.reason if decision else reason
    return Outcome(state.status, state.stage, count, answered, len(exposed), reason)


def _requests(plan: RolloutPlan, traffic: Traffic, state: State) -> Iterator[Event]:
    """One request after the other, each assigned with the share that the state has at that moment."""
    random = generator(traffic.seed, "rollout")
    salt = f"{plan.salt or plan.name}-{traffic.seed}"
    users = random.integers(0, traffic.users, traffic.requests)
    draws = random.random(traffic.requests)
    normal = random.standard_normal(traffic.requests)
    always = random.random(traffic.users)
    sampled, liked = random.random((2, traffic.requests)) if plan.judge else (None, None)
    for number in range(traffic.requests):
        user = f"user-{users[number]}"
        unit = f"request-{number}" if plan.unit == "request" else user
        arm = arm_of(salt, unit, {CANDIDATE: state.share}, plan.excluded)
        behaviour = traffic.candidate if arm == CANDIDATE else traffic.stable
        metrics: dict[str, Any] = {}
        for name, rate in behaviour.rates.items():
            metrics[name] = int(draws[number] < rate)  # one draw: metrics of one reply go together
        if always[users[number]] < behaviour.failing:
            metrics["error"] = 1
        mean, spread = behaviour.log_latency
        metrics["log_latency"] = mean + spread * float(normal[number])
        metrics.setdefault("slow", int(metrics["log_latency"] > math.log(plan.slow_after)))
        score = None
        if sampled is not None and liked is not None and sampled[number] < plan.judged:
            score = float(liked[number] < behaviour.score)
        yield {
            "score": score,
            "t": number / traffic.per_second,
            "event": "request",
            "id": str(number),
            "unit": unit,
            "arm": arm,
            "share": state.share,
            "metrics": metrics,
        }


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
    }


def replay(events: Iterable[Event]) -> Iterator[tuple[Event, Decision | None]]:
    """The verdicts of a log, each with what the policy decides from the events before it. ArtifactError where they disagree.

    Verdicts of people are not the policy's and come with None.
    """
    state = State()
    for event in events:
        if event["event"] == "verdict":
            decision = decide(state) if event["by"] == "policy" else None
            if event["by"] == "policy" and (decision is None or decision.action != event["action"]):
                again = decision.action if decision else "nothing"
                raise ArtifactError(
                    f"the log says {event['action']!r} at {event['t']:.3f} s and its events say {again!r}",
                    fix="the log was changed, or written by another version of the policy",
                )
            yield event, decision
        state.apply(event)
