"""Promote, hold or roll back: a pure function of the plan and what the log has folded to, with its reason in words."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from trivium.rollout.assign import STABLE
from trivium.rollout.evidence import alarm
from trivium.rollout.log import HELD, State
from trivium.rollout.plan import BETTER_HIGH
from trivium.rollout.watch import Watch


@dataclass(frozen=True)
class Decision:
    action: str
    """promote, hold or roll back."""
    reason: str
    numbers: dict[str, Any] = field(default_factory=dict)
    """What it rests on, so that a reader can check it."""
    call: bool = False
    """Whether a person is called."""
    arm: str | None = None
    """The candidate that is rolled back, or gets all of the traffic."""


def decide(state: State) -> Decision | None:
    """What to do now; None where nothing is under way, or nothing can change until a person acts.

    Harm is looked at first and at any time; absence of numbers never promotes and never rolls back.
    """
    if state.plan is None or not state.under_way:
        return None
    harmed = _harmed(state)
    if harmed is not None:
        return harmed
    if state.status == HELD:
        return None
    plan, stage = state.plan, state.plan.stages[state.stage]
    for name, ratio in state.ratios.items():
        if alarm(ratio.log_e, plan.sample_ratio_alpha, len(plan.stages) * len(plan.candidates)):
            fell = f"{int(ratio.candidate)} of {int(ratio.candidate + ratio.stable)} units fell to {_the(state, name)}"
            text = f"{fell} where a share of {ratio.share:g} was planned"
            return Decision("hold", f"sample ratio: {text}; no test can be trusted", call=True)
    waiting = next((why for name in state.living if (why := _waiting(state, name)) is not None), None)
    if waiting is None and not state.open:
        return Decision("hold", f"waiting: the plan promotes in its windows only: {', '.join(plan.windows)}")
    if waiting is None:
        return _promotion(state)
    overdue = stage.max_time is not None and state.now - state.entered > stage.max_time
    return Decision("hold", f"overdue: {waiting}" if overdue else waiting, call=overdue)


def _harmed(state: State) -> Decision | None:
    assert state.plan is not None
    for name, watch in state.watches.items():
        if watch.candidate not in state.out and watch.harm >= state.plan.harm_limit:
            reason = (
                f"{name}: {_seen(state, watch)}; e = {_e(watch.harm)} of {math.exp(state.plan.harm_limit):g}"
            )
            return Decision("roll back", reason, _numbers(state), arm=watch.candidate)
    return None


def _waiting(state: State, candidate: str) -> str | None:
    """What the stage still waits for of one candidate, as n of m; None if nothing."""
    assert state.plan is not None
    plan, stage = state.plan, state.plan.stages[state.stage]
    have, who = state.units[candidate], _the(state, candidate)
    if have < stage.min_units and (stage.shadow or stage.shares[candidate] > 0):
        return f"waiting: {have} of {stage.min_units} units of {who}"
    spent = state.now - state.entered
    if spent < stage.min_time:
        return f"waiting: {spent:.0f} of {stage.min_time:.0f} seconds"
    if not stage.decide:
        return None
    for guardrail, watch in state.watched(candidate).items():
        if watch.guardrail.within is None:
            continue
        name = state.label(candidate, guardrail)
        for arm, moments in ((candidate, watch.means.candidate), (STABLE, watch.means.stable)):
            if moments.count < watch.means.least:
                missing = f", {watch.absent[arm]} replies without a number" if watch.absent[arm] else ""
                missing += f", {len(watch.undecided[arm])} undecided" if watch.undecided[arm] else ""
                return f"waiting: {name} of {arm}: {int(moments.count)} of {watch.means.least} units{missing}"
        if watch.within < plan.proof_limit:
            unsaid = {arm: len(units) for arm, units in watch.undecided.items() if units}
            worst = "".join(
                f"; the judge has not decided {n} units of {arm}, taken as the worst"
                for arm, n in unsaid.items()
            )
            return (
                f"undecided: {name} differs by {_estimate(watch, plan.alpha)}, not yet proven within "
                f"{watch.guardrail.within:g}: e = {_e(watch.within)} of {math.exp(plan.proof_limit):g}{worst}"
            )
    return None


def _promotion(state: State) -> Decision:
    """Nothing is waited for. Out of the last stage one candidate gets everything: of several, the best in the goal."""
    assert state.plan is not None
    plan, stage = state.plan, state.plan.stages[state.stage]
    if not stage.decide:
        units = sum(state.units[name] for name in state.living)
        reason = f"no harm seen in {units} units; this stage decides no more"
    else:
        within = [f"{n} within {g.within:g}" for n, g in plan.guardrails.items() if g.within is not None]
        reason = f"proven not worse: {', '.join(within)}"
    if not state.last:
        return Decision("promote", reason, _numbers(state))
    chosen = state.living[0]
    if len(plan.candidates) > 1:
        goals = {name: state.watches[state.label(name, str(plan.goal))] for name in state.living}
        sign = 1 if plan.guardrails[str(plan.goal)].metric in BETTER_HIGH else -1
        chosen = max(goals, key=lambda name: sign * float(goals[name].means.difference))
        seen = ", ".join(f"{name} {_estimate(watch, plan.alpha)}" for name, watch in goals.items())
        reason += f"; {chosen} of {len(goals)} by {plan.goal}, beside stable: {seen}"
    return Decision("promote", reason, _numbers(state), arm=chosen)


def _the(state: State, candidate: str) -> str:
    """A candidate in words."""
    assert state.plan is not None
    return candidate if len(state.plan.candidates) > 1 else "the candidate"


def _estimate(watch: Watch, alpha: float) -> str:
    low, high = watch.means.interval(alpha)
    difference = round(float(watch.means.difference), 12) + 0.0  # no -1e-17
    return f"{difference:+.4g} ({low:+.4g} to {high:+.4g})"


def _seen(state: State, watch: Watch) -> str:
    who = _the(state, watch.candidate)
    if watch.guardrail.is_event:
        return f"{int(watch.flips.candidate)} units of {who} and {int(watch.flips.stable)} of stable"
    return f"{who.removeprefix('the ')} differs by {float(watch.means.difference):+.4g}"


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
