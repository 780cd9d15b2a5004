"""A rollout's state in plain values, for pages and programs. Pure."""

from __future__ import annotations

import math
from typing import Any

from trivium.rollout.assign import STABLE
from trivium.rollout.log import CANDIDATE, State, Watch
from trivium.rollout.plan import BETTER_HIGH
from trivium.rollout.policy import decide


def status_of(state: State, now: float) -> dict[str, Any]:
    """Stage, evidence and verdicts. `now`: seconds of the log. What is no number yet is None."""
    plan = state.plan
    if plan is None:
        return {"status": state.status}
    decision = decide(state)
    return {
        "name": plan.name,
        "status": state.status,
        "unit": plan.unit,
        "stage": state.stage,
        "stages": [stage.model_dump() for stage in plan.stages],
        "candidate": dict(state.candidate),
        "spent": round(max(now, state.now) - state.entered, 3),
        "units": dict(state.units),
        "waiting": decision.reason if decision is not None else None,
        "guardrails": {
            name: _guardrail(watch, plan.alpha, len(state.watches)) for name, watch in state.watches.items()
        },
        "feedback": {"unmatched": state.unmatched, "capped": state.capped},
        "verdicts": list(state.verdicts),
    }


def _guardrail(watch: Watch, alpha: float, tests: int) -> dict[str, Any]:
    """Log e-values beside what they must reach; of this stage: both means, and where their difference lies (1 - alpha)."""
    means, guardrail = watch.means, watch.guardrail
    low, high = means.interval(alpha)
    rows = {
        arm: {
            "units": int(moments.count),
            "mean": finite(moments.mean if moments.count else None),
            "absent": watch.absent[arm],
            "undecided": len(watch.undecided[arm]),
        }
        for arm, moments in ((CANDIDATE, means.candidate), (STABLE, means.stable))
    }
    bad = (
        {CANDIDATE: int(watch.flips.candidate), STABLE: int(watch.flips.stable)}
        if guardrail.is_event
        else None
    )
    both = min(means.candidate.count, means.stable.count) > 0
    return {
        "metric": guardrail.metric,
        "arms": rows,
        "bad_units": bad,
        "difference": finite(means.difference if both else None),
        "interval": [finite(low), finite(high)],
        "margin": guardrail.within,
        "more_is_better": guardrail.metric in BETTER_HIGH,
        "harm": {"log_e": finite(watch.harm), "limit": math.log(tests / alpha)},
        "proof": None
        if guardrail.within is None
        else {"log_e": finite(watch.within), "limit": math.log(1 / alpha)},
    }


def finite(value: Any) -> float | None:
    return None if value is None or not math.isfinite(value) else round(float(value), 6)
