"""A rollout's state in plain values, for pages and programs. Pure."""

from __future__ import annotations

import math
from typing import Any

from trivium.rollout.assign import STABLE, Split
from trivium.rollout.evidence import Quantiles
from trivium.rollout.log import HELD, PROMOTED, ROLLED_BACK, State
from trivium.rollout.plan import BETTER_HIGH, RolloutPlan
from trivium.rollout.policy import decide
from trivium.rollout.watch import Watch

QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


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
        "candidates": {name: _stands(state, name) for name in plan.candidates},
        "spent": round(max(now, state.now) - state.entered, 3),
        "units": dict(state.units),
        "waiting": decision.reason if decision is not None else None,
        "guardrails": {name: _guardrail(watch, plan) for name, watch in state.watches.items()},
        "feedback": {"unmatched": state.unmatched, "capped": state.capped},
        "verdicts": list(state.verdicts),
    }


def evidence_of(state: State, split: Split, stage: int | None = None) -> dict[str, Any]:
    """The verdict for those who move pods: `promote` (out of `stage`, from 1; None: to all of the traffic), `roll back` or
    `hold`, with its reason and the evidence. `split`: as the router has it, which may be ahead of the log."""
    told = {"verdict": "hold", "reason": "no rollout has begun", "status": state.status, "asked_stage": stage}
    plan = state.plan
    if plan is None:
        return told
    passed = state.status == PROMOTED or (stage is not None and state.stage >= stage)
    if state.status == ROLLED_BACK or not set(plan.candidates) - split.out:
        told |= {
            "verdict": "roll back",
            "reason": _last(state, "roll back") or "a person rolled back; the log waits for it",
        }
    elif passed and (state.under_way or state.status == PROMOTED):
        told |= {"verdict": "promote", "reason": _last(state, "promote")}
    elif state.status == HELD:
        told["reason"] = f"held: {_last(state, 'hold')}"
    else:
        decision = decide(state)
        told["reason"] = decision.reason if decision is not None else state.status
    full = status_of(state, state.now)
    return told | {name: full[name] for name in ("name", "stage", "candidates", "units", "guardrails")}


def _last(state: State, action: str) -> str:
    """Why it was done, the last time."""
    return next((str(row["reason"]) for row in reversed(state.verdicts) if row["action"] == action), "")


def _stands(state: State, name: str) -> dict[str, Any]:
    """A candidate's share of the units, and what has become of it."""
    out = name in state.out
    fate = PROMOTED if name == state.chosen else ROLLED_BACK if out else state.status
    return {"status": fate, "share": 0.0 if out else state.weights.get(name, 0.0)}


def _guardrail(watch: Watch, plan: RolloutPlan) -> dict[str, Any]:
    """Log e-values beside what they must reach; of this stage: both means, and where their difference lies (1 - alpha)."""
    means, guardrail = watch.means, watch.guardrail
    low, high = means.interval(plan.alpha)
    rows = {
        arm: {
            "units": int(moments.count),
            "mean": finite(moments.mean if moments.count else None),
            "absent": watch.absent[arm],
            "undecided": len(watch.undecided[arm]),
        }
        for arm, moments in ((watch.candidate, means.candidate), (STABLE, means.stable))
    }
    bad = (
        {watch.candidate: int(watch.flips.candidate), STABLE: int(watch.flips.stable)}
        if guardrail.is_event
        else None
    )
    both = min(means.candidate.count, means.stable.count) > 0
    return {
        "candidate": watch.candidate,
        "metric": guardrail.metric,
        "arms": rows,
        "bad_units": bad,
        "difference": finite(means.difference if both else None),
        "interval": [finite(low), finite(high)],
        "margin": guardrail.within,
        "more_is_better": guardrail.metric in BETTER_HIGH,
        "quantiles": {arm: _quantiles(watch.spread[arm], plan.alpha) for arm in watch.spread},
        "harm": {"log_e": finite(watch.harm), "limit": plan.harm_limit},
        "proof": None
        if guardrail.within is None
        else {"log_e": finite(watch.within), "limit": plan.proof_limit},
    }


def _quantiles(spread: Quantiles, alpha: float) -> dict[str, list[float | None]]:
    """Seconds: each quantile, and between what it lies (1 - alpha, each by itself); None where that is not known yet."""
    return {
        name: [finite(math.exp(value)) if math.isfinite(value) else None for value in spread.at(p, alpha)]
        for name, p in QUANTILES.items()
    }


def finite(value: Any) -> float | None:
    return None if value is None or not math.isfinite(value) else round(float(value), 6)
