"""Requests for a simulated rollout: made up, or as a router wrote them down, with harm planted in the candidates' replies."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from trivium.errors import DataError
from trivium.rollout.assign import STABLE
from trivium.rollout.log import Event
from trivium.rollout.plan import EVENTS, MEANS, RolloutPlan
from trivium.seeds import generator

Metrics = dict[str, Any]


class Call(NamedTuple):
    """A request that nobody has answered yet."""

    t: float
    """Seconds."""
    user: str
    answer: Callable[[str], Metrics]
    """The metrics of an arm's reply, the judge's `score` among them where it was asked."""


class Source(Protocol):
    """Where requests come from. `seed`: of the assignment and of all that is drawn."""

    @property
    def seed(self) -> int: ...

    def calls(self, plan: RolloutPlan) -> Iterator[Call]: ...


@dataclass(frozen=True)
class Behaviour:
    """How an arm answers. Probabilities are a reply's; `failing` are users who fail on every request."""

    rates: Mapping[str, float] = field(default_factory=dict)
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
    candidates: Mapping[str, Behaviour] = field(default_factory=dict)
    """By name; one that is not here answers as stable does."""
    seed: int = 0

    def calls(self, plan: RolloutPlan) -> Iterator[Call]:
        random = generator(self.seed, "rollout")
        users = random.integers(0, self.users, self.requests)
        draws = random.random(self.requests)
        normal = random.standard_normal(self.requests)
        always = random.random(self.users)
        sampled, liked = random.random((2, self.requests)) if plan.judge else (None, None)

        def answered(number: int, arm: str) -> Metrics:
            behaviour = self.candidates.get(arm, self.stable)
            metrics: Metrics = {  # one draw: metrics of one reply go together
                name: int(draws[number] < rate) for name, rate in behaviour.rates.items()
            }
            if always[users[number]] < behaviour.failing:
                metrics["error"] = 1
            mean, spread = behaviour.log_latency
            metrics["log_latency"] = mean + spread * float(normal[number])
            metrics.setdefault("slow", int(metrics["log_latency"] > math.log(plan.slow_after)))
            if sampled is not None and liked is not None and sampled[number] < plan.judged:
                metrics["score"] = float(liked[number] < behaviour.score)
            return metrics

        for number in range(self.requests):
            yield Call(
                number / self.per_second,
                f"user-{users[number]}",
                lambda arm, number=number: answered(number, arm),  # type: ignore[misc]
            )


@dataclass(frozen=True)
class Harm:
    """What is planted in a candidate's replies, over what was recorded."""

    rates: Mapping[str, float] = field(default_factory=dict)
    """Metric -> probability that a reply turns bad in it: an event happens, a share (a score, a thumb) becomes 0."""
    slower: float = 1.0
    """How many times as long the candidate takes."""


@dataclass(frozen=True)
class Recorded:
    """Requests as they came: each at its time, of its user, with the metrics of the reply that it got from stable."""

    rows: Sequence[tuple[float, str, Metrics]]
    harms: Mapping[str, Harm] = field(default_factory=dict)
    """By candidate; one that is not here answers as stable did."""
    seed: int = 0

    def calls(self, plan: RolloutPlan) -> Iterator[Call]:
        draws = generator(self.seed, "rollout").random(len(self.rows))
        for (t, user, metrics), draw in zip(self.rows, draws, strict=True):
            yield Call(t, user, lambda arm, m=metrics, d=draw: self._harmed(plan, arm, m, d))  # type: ignore[misc]

    def _harmed(self, plan: RolloutPlan, arm: str, metrics: Metrics, draw: float) -> Metrics:
        harm = self.harms.get(arm)
        if harm is None:
            return dict(metrics)
        found = metrics | {
            name: int(name in EVENTS) for name, rate in harm.rates.items() if draw < rate
        }  # one draw: metrics of one reply go together
        for name in ("log_latency", "log_first_token"):
            if found.get(name) is not None:
                found[name] += math.log(harm.slower)
        for name, of, limit in (
            ("slow", "log_latency", plan.slow_after),
            ("slow_start", "log_first_token", plan.slow_start_after),
        ):
            if found.get(of) is not None and found.get(name) is not None:
                found[name] = max(found[name], int(found[of] > math.log(limit)))
        return found


def recorded(events: Iterable[Event], where: str) -> list[tuple[float, str, Metrics]]:
    """The replies of stable in a log, with what users and a judge said of them, in the order of their times.

    A row needs `t`, `unit` and `metrics`; one without an `arm` was answered by what is stable now. DataError where there is none.
    """
    rows: dict[str, tuple[float, str, Metrics]] = {}
    for number, event in enumerate(events):
        request, aside = event.get("id", number), event.get("left") or event.get("beside")
        if event["event"] == "request" and event.get("arm", STABLE) == STABLE and not aside:
            rows[request] = (float(event["t"]), str(event["unit"]), _known(event.get("metrics")))
        elif event["event"] == "feedback" and request in rows:
            rows[request][2].setdefault(event["metric"], event["value"])
        elif event["event"] == "judged" and request in rows and event["value"] is not None:
            rows[request][2]["score"] = event["value"]
    if not rows:
        raise DataError(
            "there are no replies of stable to play",
            where=where,
            fix="give the log of a router that has answered",
        )
    return sorted(rows.values(), key=lambda row: row[0])


def _known(metrics: Any) -> Metrics:
    metrics = metrics if isinstance(metrics, dict) else {}
    return {name: value for name, value in metrics.items() if name in (*EVENTS, *MEANS)}
