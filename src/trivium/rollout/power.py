"""What a plan can see, before it starts: how many units each stage needs to prove what it must, and to catch what it should."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from trivium.rollout.assign import beside_stable
from trivium.rollout.evidence import RATIO, Means
from trivium.rollout.plan import Guardrail, RolloutPlan

SPREAD = {
    "log_latency": 1.0,
    "log_first_token": 1.0,
    "score": 0.3,
    "thumbs": 0.5,
    "success": 0.5,
}
"""Standard deviations that are assumed of means before there is any traffic, in the metric's own unit."""
RATE = 0.01
"""Rate of a bad event that is assumed where none is given."""
MOST = 10**9


@dataclass(frozen=True)
class Need:
    """Units of all arms together that one stage needs for one guardrail of one candidate, which takes `share` of them."""

    stage: int
    candidate: str
    guardrail: str
    share: float
    twice: float
    """Until a candidate that is twice as bad is rolled back (of means: worse by `tau`)."""
    thrice: float
    """The same for three times as bad (of means: twice `tau`)."""
    proof: float | None
    """Until a candidate as good as stable is proven within the margin; None where the plan asks for no proof."""
    least: float
    """The minimum detectable effect of the stage's `min_units`: times stable's rate, or a difference of means; inf: none."""


def needs(plan: RolloutPlan, rates: Mapping[str, float] | None = None) -> list[Need]:
    """For every stage with traffic, every candidate and every guardrail. `rates`: what is known of stable's events, by metric."""
    rows = []
    for number, stage in enumerate(plan.stages):
        for candidate, weight in stage.shares.items():
            share = beside_stable(stage.shares, candidate)
            if not 0 < share < 1:
                continue
            for name, guardrail in plan.guardrails.items():
                rate = (rates or {}).get(guardrail.metric, RATE)
                if guardrail.is_event:
                    worse = [until_caught(rate, ratio, share, plan.harm_limit) for ratio in (2.0, 3.0)]
                else:
                    worse = [
                        until_different(guardrail, times, share, plan.harm_limit) for times in (1.0, 2.0)
                    ]
                proof = None
                if guardrail.within is not None and stage.decide:
                    proof = until_proven(guardrail, rate, share, plan.proof_limit)
                seen = weight / share  # the part of the units that falls to the candidate or to stable
                seen *= plan.judged if guardrail.metric == "score" else 1.0  # as if each came once
                until = [number / seen for number in worse]
                least = detectable(guardrail, rate, share, stage.min_units / share, plan.harm_limit)
                proven = None if proof is None else proof / seen
                rows.append(Need(number, candidate, name, weight, until[0], until[1], proven, least))
    return rows


def detectable(guardrail: Guardrail, rate: float, share: float, units: float, limit: float) -> float:
    """The smallest harm that `units` of both arms are expected to roll back: a rate as many times stable's, or a difference of
    means in the metric's own unit. inf: none."""
    if guardrail.is_event:
        ratios = [r / 20 for r in range(21, 2001) if rate * r / 20 <= 1]
        return next((r for r in ratios if until_caught(rate, r, share, limit) <= units), math.inf)
    worse = [guardrail.tau * t / 20 for t in range(1, 401)]
    variance = _spread(guardrail) ** 2
    return next((w for w in worse if _expected(guardrail.tau, w, variance, units, share) >= limit), math.inf)


def until_caught(rate: float, ratio: float, share: float, limit: float) -> float:
    """Units until `Flips` is expected to reach `limit`."""
    theta = share * ratio / (share * ratio + 1 - share)
    guess = share * RATIO / (share * RATIO + 1 - share)
    growth = theta * math.log(guess / share) + (1 - theta) * math.log((1 - guess) / (1 - share))
    events = rate * (1 - share) + min(1.0, rate * ratio) * share
    return limit / (events * growth) if growth > 0 and events > 0 else math.inf


def until_different(guardrail: Guardrail, times: float, share: float, limit: float) -> float:
    """Units until `Means` is expected to reach `limit` where the candidate is worse by `times` tau."""
    spread = _spread(guardrail)
    return _smallest(
        lambda units: _expected(guardrail.tau, times * guardrail.tau, spread**2, units, share) >= limit
    )


def until_proven(guardrail: Guardrail, rate: float, share: float, limit: float) -> float:
    """Units until a candidate that equals stable is expected to be proven within the margin."""
    assert guardrail.within is not None
    variance = rate * (1 - rate) if guardrail.is_event else _spread(guardrail) ** 2
    tau = guardrail.within if guardrail.is_event else guardrail.tau
    margin = guardrail.within
    return _smallest(lambda units: _expected(tau, margin, variance, units, share) >= limit)


def _spread(guardrail: Guardrail) -> float:
    """Of money nothing is known but which difference matters: five times that."""
    return SPREAD.get(guardrail.metric, 5 * guardrail.tau)


def _expected(tau: float, difference: float, variance: float, units: float, share: float) -> float:
    """log e of `Means` where both arms lie exactly at their expectations."""
    means = Means(tau, least=1)
    for moments, part, mean in ((means.candidate, share, difference), (means.stable, 1 - share, 0.0)):
        moments.count, moments.mean = max(2.0, units * part), mean
        moments._squares = variance * (moments.count - 1)
    return float(means.log_e())


def _smallest(enough: object) -> float:
    """The least number of units that is enough, to a hundredth."""
    assert callable(enough)
    low, high = 1.0, 4.0
    while not enough(high):
        low, high = high, high * 2
        if high > MOST:
            return math.inf
    while high / low > 1.01:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
