"""Promote, hold or roll back: a pure function of the plan and what the log has folded to, with its reason in words."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from trivium.rollout.assign import STABLE
from trivium.rollout.evidence import alarm
from trivium.rollout.log import CANDIDATE, HELD, RUNNING, State, Watch


@dataclass(frozen=True)
class Decision:
    action: str
    """promote, hold or roll back."""
    reason: str
    numbers: dict[str, Any] = field(default_factory=dict)
    """What it rests on, so that a reader can check it."""
    call: bool = False
    """Whether a person is called."""


def decide(state: State) -> Decision | None:
    """What to do now; None where nothing is under way, or nothing can change until a person acts.

    Harm is looked at first and at any time; absence of numbers never promotes and never rolls back.
    """
    if state.plan is None or state.status not in (RUNNING, HELD):
        return None
    harmed = _harmed(state)
    if harmed is not None:
        return harmed
    if state.status == HELD:
        return None
    plan, stage = state.plan, state.plan.stages[state.stage]
    ratio = state.ratio
    if ratio is not None and alarm(ratio.log_e, plan.sample_ratio_alpha, len(plan.stages)):
        total = int(ratio.candidate + ratio.stable)
        text = f"{int(ratio.candidate)} of {total} units fell to the candidate where a share of {ratio.share:g} was planned"
        return Decision("hold", f"sample ratio: {text}; no test can be trusted", call=True)
    waiting = _waiting(state)
    if waiting is None:
        return Decision("promote", _proof(state), _numbers(state))
    overdue = stage.max_time is not None and state.now - state.entered > stage.max_time
    return Decision("hold", f"overdue: {waiting}" if overdue else waiting, call=overdue)


def _harmed(state: State) -> Decision | None:
    assert state.plan is not None
    tests = len(state.watches)
    for name, watch in state.watches.items():
        if alarm(watch.harm, state.plan.alpha, tests):
            limit = tests / state.plan.alpha
            reason = f"{name}: {_seen(watch)}; e = {_e(watch.harm)} beyond {limit:g}"
            return Decision("roll back", reason, _numbers(state))
    return None


def _waiting(state: State) -> str | None:
    """What the stage still waits for, as n of m; None if nothing."""
    assert state.plan is not None
    plan, stage = state.plan, state.plan.stages[state.stage]
    have = state.units[CANDIDATE]
    if have < stage.min_units:
        return f"waiting: {have} of {stage.min_units} units of the candidate"
    spent = state.now - state.entered
    if spent < stage.min_time:
        return f"waiting: {spent:.0f} of {stage.min_time:.0f} seconds"
    if not stage.decide:
        return None
    for name, watch in state.watches.items():
        if watch.guardrail.within is None:
            continue
        for arm, moments in ((CANDIDATE, watch.means.candidate), (STABLE, watch.means.stable)):
            if moments.count < watch.means.least:
                missing = f", {watch.absent[arm]} replies without a number" if watch.absent[arm] else ""
                missing += f", {len(watch.undecided[arm])} undecided" if watch.undecided[arm] else ""
                return f"waiting: {name} of {arm}: {int(moments.count)} of {watch.means.least} units{missing}"
        if not alarm(watch.within, plan.alpha, 1):
            low, high = watch.means.interval(plan.alpha)
            unsaid = {arm: len(units) for arm, units in watch.undecided.items() if units}
            worst = "".join(
                f"; the judge has not decided {n} units of {arm}, taken as the worst"
                for arm, n in unsaid.items()
            )
            return (
                f"undecided: {name} differs by {float(watch.means.difference):+.4g} ({low:+.4g} to {high:+.4g}), "
                f"not yet proven within {watch.guardrail.within:g}: e = {_e(watch.within)} of {1 / plan.alpha:g}{worst}"
            )
    return None


def _proof(state: State) -> str:
    assert state.plan is not None
    stage = state.plan.stages[state.stage]
    if not stage.decide:
        return f"no harm seen in {state.units[CANDIDATE]} units; this stage decides no more"
    proven = [
        f"{n} within {w.guardrail.within:g}"
        for n, w in state.watches.items()
        if w.guardrail.within is not None
    ]
    return f"proven not worse: {', '.join(proven)}"


def _seen(watch: Watch) -> str:
    if watch.guardrail.is_event:
        return f"{int(watch.flips.candidate)} units of the candidate and {int(watch.flips.stable)} of stable"
    return f"candidate differs by {float(watch.means.difference):+.4g}"


def _numbers(state: State) -> dict[str, Any]:
    return {
        name: {
            "harm": round(watch.harm, 4),
            "within": None if math.isinf(watch.within) else round(watch.within, 4),
        }
        for name, watch in state.watches.items()
    }


def _e(log_e: float) -> str:
    return f"{math.exp(min(log_e, 700)):.3g}"
