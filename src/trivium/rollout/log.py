"""The log of a rollout and the state that it folds to. State is never stored: it is read from the log again.

An event is a dict with `t` (seconds, of the router's clock) and `event`:

    started    plan, candidate (what it is known by), force (served without passed gates)
    request    id, unit, arm, metrics {name: number or null}: one answered request; sampled: a judge is asked about it
    mirrored   id, unit, metrics, stable {the same of stable's reply}: a request of a shadow stage, answered by both arms; sampled
    judged     id, unit, arm, share, value (0 to 1; null: undecided), of a shadow stage also stable: what a judge said
    feedback   id, metric, value: joins its request, once an (id, metric)
    choice     id, over: of two replies to the same words, the first was liked better; for `trivium rollout feedback`
    tick       nothing: time has passed
    verdict    action, reason, by ("policy" or who): what was decided; only these change stage and share
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from trivium.errors import ArtifactError
from trivium.rollout.assign import STABLE
from trivium.rollout.evidence import Flips, Means, SampleRatio
from trivium.rollout.plan import BETTER_HIGH, EVENTS, FEEDBACK, SHARES, Guardrail, RolloutPlan, plan_of

Event = dict[str, Any]
CANDIDATE = "candidate"
LATER = (*FEEDBACK, "score")
"""Metrics that are not found in a reply's bytes."""
RECENT = 100_000
"""Requests that late feedback can still join."""

IDLE, RUNNING, HELD, PROMOTED, ROLLED_BACK = "idle", "running", "held", "promoted", "rolled back"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


@dataclass
class Watch:
    """The evidence on one guardrail: of all stages for events, of each stage and the product of earlier ones for means."""

    guardrail: Guardrail
    flips: Flips = field(default_factory=Flips)
    means: Means = field(init=False)
    earlier: dict[str, float] = field(default_factory=lambda: {"harm": 0.0, "within": 0.0})
    absent: dict[str, int] = field(default_factory=lambda: {CANDIDATE: 0, STABLE: 0})
    """Replies of this stage, by arm, that lacked the metric or gave no number."""
    undecided: dict[str, set[str]] = field(default_factory=lambda: {CANDIDATE: set(), STABLE: set()})
    """Units of this stage, by arm, of whose replies a judge has decided none yet, though it was asked."""
    _counted: set[str] = field(default_factory=set)
    _failed: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.means = self._fresh()

    def _fresh(self) -> Means:
        tau = (self.guardrail.within or 0.01) if self.guardrail.is_event else self.guardrail.tau
        return Means(tau, shares=self.guardrail.metric in (*EVENTS, *SHARES))

    def add(self, unit: str, arm: str, share: float, value: Any, here: bool = True) -> None:
        """One reply: a unit counts with its first value of a stage, and with its first bad event of the rollout.

        `here`: it was assigned in this stage. A reply that had begun in the one before says nothing about this one's means.
        """
        if not _is_number(value):
            self.absent[arm] += 1
            return
        candidate = arm == CANDIDATE
        if self.guardrail.is_event and value and unit not in self._failed:
            self._failed.add(unit)
            self.flips.add(candidate, share)
        if here and unit not in self._counted:
            self._count(unit)
            self.means.add(candidate, float(value))

    def _count(self, unit: str) -> None:
        self._counted.add(unit)
        for units in self.undecided.values():
            units.discard(unit)

    def ask(self, unit: str, arm: str) -> None:
        """A judge is asked about a reply."""
        if unit not in self._counted:
            self.undecided[arm].add(unit)

    def pair(self, unit: str, candidate: Any, stable: Any) -> None:
        """A request that both arms answered: where exactly one reply is bad, it is the candidate's with probability 1/2 if the
        arms are alike (McNemar 1947), so that it is a flip at that share. Once a unit."""
        for arm, value in ((CANDIDATE, candidate), (STABLE, stable)):
            self.absent[arm] += not _is_number(value)
        if not (_is_number(candidate) and _is_number(stable)):
            return
        if self.guardrail.is_event and bool(candidate) != bool(stable) and unit not in self._failed:
            self._failed.add(unit)
            self.flips.add(bool(candidate), 0.5)
        if unit not in self._counted:
            self._count(unit)
            self.means.add(True, float(candidate))
            self.means.add(False, float(stable))

    @property
    def harm(self) -> float:
        """log e against "the candidate is no worse"."""
        if self.guardrail.is_event:
            return float(self.flips.log_e)
        return self.earlier["harm"] + float(self.means.log_e(smaller=self._high))

    @property
    def within(self) -> float:
        """log e against "the candidate is worse by the margin or more"."""
        margin = self.guardrail.within
        if margin is None:
            return math.inf
        beyond = -margin if self._high else margin
        return self.earlier["within"] + float(self._proven.log_e(beyond, smaller=not self._high))

    @property
    def _proven(self) -> Means:
        """The means, with what a judge did not decide taken as the worst: 0 for the candidate, and 1 for stable."""
        worst, best = len(self.undecided[CANDIDATE]), len(self.undecided[STABLE])
        if not worst + best:
            return self.means
        candidate = self.means.candidate.and_others(worst, 0.0)
        stable = self.means.stable.and_others(best, 1.0)
        return replace(self.means, candidate=candidate, stable=stable)

    @property
    def _high(self) -> bool:
        """Whether more of it is better."""
        return self.guardrail.metric in BETTER_HIGH

    def next_stage(self) -> None:
        """Evidence multiplies over stages and is never pooled: the shares differ, and the days."""
        self.earlier = {
            "harm": 0.0 if self.guardrail.is_event else self.harm,
            "within": 0.0 if self.guardrail.within is None else self.within,
        }
        self.means, self._counted = self._fresh(), set()
        self.absent = {CANDIDATE: 0, STABLE: 0}
        self.undecided = {CANDIDATE: set(), STABLE: set()}


@dataclass
class State:
    """What a log says so far."""

    plan: RolloutPlan | None = None
    candidate: Mapping[str, Any] = field(default_factory=dict)
    status: str = IDLE
    stage: int = 0
    entered: float = 0.0
    now: float = 0.0
    """The latest time of any event: a clock that jumps back does not turn time back."""
    watches: dict[str, Watch] = field(default_factory=dict)
    ratio: SampleRatio | None = None
    units: dict[str, int] = field(default_factory=lambda: {CANDIDATE: 0, STABLE: 0})
    """Different units of this stage, by arm."""
    verdicts: list[Event] = field(default_factory=list)
    unmatched: int = 0
    """Feedback for requests that nobody knows."""
    capped: int = 0
    """Feedback beyond a unit's cap."""
    _seen: set[str] = field(default_factory=set)
    _requests: dict[str, tuple[str, str, float]] = field(default_factory=dict)
    _heard: set[tuple[str, str]] = field(default_factory=set)
    _votes: dict[str, int] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """The candidate's share of the units: what the router sends it."""
        if self.plan is None or self.status in (IDLE, ROLLED_BACK):
            return 0.0
        return 1.0 if self.status == PROMOTED else self.plan.stages[self.stage].share

    def apply(self, event: Event) -> None:
        """Takes the next event of the log. ArtifactError for one that it cannot be."""
        self.now = max(self.now, float(event["t"]))
        match event["event"]:
            case "started":
                self._start(event)
            case "request":
                self._request(event)
            case "mirrored":
                self._mirrored(event)
            case "judged":
                self._judged(event)
            case "feedback":
                self._feedback(event)
            case "verdict":
                self._verdict(event)
            case "choice":
                self._take_vote(event["id"], over(event["over"]))
            case "tick":
                pass
            case other:
                raise ArtifactError(
                    f"a rollout's log has no event {other!r}", fix="the log is of another version or damaged"
                )

    def _start(self, event: Event) -> None:
        self.plan, self.candidate = plan_of(event["plan"]), event.get("candidate", {})
        self.watches = {name: Watch(guardrail) for name, guardrail in self.plan.guardrails.items()}
        self.status, self.verdicts = RUNNING, []
        self._requests, self._heard, self._votes = {}, set(), {}
        self._enter(0)

    def _enter(self, stage: int) -> None:
        assert self.plan is not None
        self.stage, self.entered = stage, self.now
        self.units, self._seen = {CANDIDATE: 0, STABLE: 0}, set()
        share = self.plan.stages[stage].share
        self.ratio = SampleRatio(share) if 0 < share < 1 else None

    def _request(self, event: Event) -> None:
        unit, arm, share = event["unit"], event["arm"], float(event.get("share", self.share))
        if self.plan is None or unit in self.plan.excluded or arm not in (CANDIDATE, STABLE):
            return
        self._requests[event["id"]] = (unit, arm, share)
        if len(self._requests) > RECENT:
            del self._requests[next(iter(self._requests))]
        if self.status not in (RUNNING, HELD) or self.share == 0:
            return  # it proves nothing: it is over, or a shadow, whose evidence are pairs. Feedback may join it
        here = share == self.share
        if unit not in self._seen:
            self._seen.add(unit)
            self.units[arm] += 1
            if self.ratio is not None and here:
                self.ratio.add(arm == CANDIDATE)
        metrics = event["metrics"]
        for watch in self.watches.values():
            metric = watch.guardrail.metric
            if metric not in LATER or metric in metrics:
                watch.add(unit, arm, share, metrics.get(metric), here)
            elif metric == "score" and event.get("sampled") and here:
                watch.ask(unit, arm)

    def _mirrored(self, event: Event) -> None:
        if self.plan is None or self.status not in (RUNNING, HELD) or self.share > 0:
            return
        unit = event["unit"]
        if unit not in self._seen:
            self._seen.add(unit)
            self.units[CANDIDATE] += 1
            self.units[STABLE] += 1
        for watch in self.watches.values():
            metric = watch.guardrail.metric
            if metric not in LATER:
                watch.pair(unit, event["metrics"].get(metric), event["stable"].get(metric))
            elif metric == "score" and event.get("sampled"):
                watch.ask(unit, CANDIDATE)
                watch.ask(unit, STABLE)

    def _judged(self, event: Event) -> None:
        """What is undecided stays so: `Watch.undecided` has it already."""
        if self.plan is None or self.status not in (RUNNING, HELD) or event["value"] is None:
            return
        unit, here = event["unit"], float(event["share"]) == self.share
        for watch in self.watches.values():
            if watch.guardrail.metric != "score":
                continue
            if "stable" not in event:
                watch.add(unit, event["arm"], self.share, event["value"], here)
            elif here and event["stable"] is not None:
                watch.pair(unit, event["value"], event["stable"])

    def fate(self, request: str, metric: str) -> str:
        """What becomes of feedback on a request: `unknown`, `again`, `capped`, or `joins`."""
        if request not in self._requests or self.plan is None:
            return "unknown"
        if (request, metric) in self._heard:
            return "again"
        unit = self._requests[request][0]
        return "capped" if self._votes.get(unit, 0) >= self.plan.cap else "joins"

    @property
    def votes(self) -> int:
        """Feedback and choices that counted."""
        return len(self._heard)

    def _take_vote(self, request: str, metric: str) -> bool:
        """Whether it counts."""
        fate = self.fate(request, metric)
        self.unmatched += fate == "unknown"
        self.capped += fate == "capped"
        if fate != "joins":
            return False
        unit = self._requests[request][0]
        self._heard.add((request, metric))
        self._votes[unit] = self._votes.get(unit, 0) + 1
        return True

    def _feedback(self, event: Event) -> None:
        if not self._take_vote(event["id"], event["metric"]):
            return
        unit, arm, share = self._requests[event["id"]]
        if self.status not in (RUNNING, HELD):
            return
        for watch in self.watches.values():
            if watch.guardrail.metric == event["metric"]:
                watch.add(unit, arm, share, event["value"], share == self.share)

    def _verdict(self, event: Event) -> None:
        self.verdicts.append(event)
        assert self.plan is not None
        match event["action"]:
            case "promote" if self.stage + 1 < len(self.plan.stages):
                for watch in self.watches.values():
                    watch.next_stage()
                self._enter(self.stage + 1)
                self.status = RUNNING
            case "promote":
                self.status = PROMOTED
            case "roll back":
                self.status = ROLLED_BACK
            case "hold":
                self.status = HELD
            case "resume":  # the stage goes on, and its times begin anew
                self.status, self.entered = RUNNING, self.now


def over(other: str) -> str:
    """What a choice over another reply counts as among a request's votes."""
    return f"over {other}"


def event_of(line: str, where: str) -> Event:
    """ArtifactError, with `where`, for a text that is no event."""
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    if not isinstance(event, dict) or not isinstance(event.get("t"), int | float) or "event" not in event:
        raise ArtifactError("a line that is no event", where=where, fix="the log is damaged or cut")
    return event


def fold(events: Iterable[Event]) -> State:
    """The state after all events."""
    state = State()
    for event in events:
        state.apply(event)
    return state
