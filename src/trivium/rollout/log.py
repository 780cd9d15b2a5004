"""The log of a rollout and the state that it folds to. State is never stored: it is read from the log again.

An event is a dict with `t` (seconds, of the router's clock) and `event`:

    started    plan, candidate (what it is known by), force (served without passed gates)
    request    id, unit, arm, share, metrics {name: number or null}: one answered request; sampled: a judge is asked about it;
               instead_of: the candidate whose unit it is, and which was rolled back; beside: stable's, asked to be compared
               with the reply that the unit has got: only choices are about it
    mirrored   id, unit, arm, metrics, stable {the same of stable's reply}: a request of a shadow stage, answered by both; sampled
    judged     id, unit, arm, share, value (0 to 1; null: undecided), of a shadow stage also stable: what a judge said
    feedback   id, metric, value: joins its request, once an (id, metric)
    choice     id, over: of two replies to the same words, the first was liked better
    edit       id, edit (a hash): the user has written the reply anew; the words are beside the log
    tick       nothing: time has passed
    window     open: whether the calendar now lies in one of the plan's windows; written where that changes
    verdict    action, reason, by ("policy" or who), arm (which candidate): what was decided; only these change stage and share

`share` is the share of the units that the candidate takes in the stage; of several candidates, each one's by name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from trivium.errors import ArtifactError
from trivium.rollout.assign import STABLE, Split, beside_stable
from trivium.rollout.evidence import SampleRatio
from trivium.rollout.plan import CHOICES, FEEDBACK, RolloutPlan, plan_of
from trivium.rollout.watch import Watch

Event = dict[str, Any]
LATER = (*FEEDBACK, *CHOICES, "score")
"""Metrics that are not found in a reply's bytes."""
RECENT = 100_000
"""Requests that late feedback can still join."""

IDLE, RUNNING, HELD, PROMOTED, ROLLED_BACK = "idle", "running", "held", "promoted", "rolled back"


@dataclass
class State:
    """What a log says so far."""

    plan: RolloutPlan | None = None
    candidate: Mapping[str, Any] = field(default_factory=dict)
    """What the candidate is known by; of several, each by its name."""
    status: str = IDLE
    stage: int = 0
    entered: float = 0.0
    now: float = 0.0
    """The latest time of any event: a clock that jumps back does not turn time back."""
    watches: dict[str, Watch] = field(default_factory=dict)
    """By the name of the guardrail; where there are several candidates, `CANDIDATE: GUARDRAIL`."""
    ratios: dict[str, SampleRatio] = field(default_factory=dict)
    """By candidate, of the units that fall to it or to stable."""
    units: dict[str, int] = field(default_factory=dict)
    """Different units of this stage, by arm."""
    out: set[str] = field(default_factory=set)
    """Candidates that were rolled back."""
    open: bool = True
    """Whether the plan may promote now."""
    chosen: str | None = None
    """The candidate that was promoted to all of the traffic."""
    verdicts: list[Event] = field(default_factory=list)
    unmatched: int = 0
    """Feedback for requests that nobody knows."""
    capped: int = 0
    """Feedback beyond a unit's cap."""
    _seen: set[object] = field(default_factory=set)
    _requests: dict[str, tuple[str, str, Mapping[str, float]]] = field(default_factory=dict)
    _heard: set[tuple[str, str]] = field(default_factory=set)
    _votes: dict[str, int] = field(default_factory=dict)

    @property
    def weights(self) -> dict[str, float]:
        """As `Split` has them."""
        if self.plan is None or self.status in (IDLE, ROLLED_BACK):
            return {}
        if self.status == PROMOTED:
            return {name: float(name == self.chosen) for name in self.plan.candidates}
        return self.plan.stages[self.stage].shares

    @property
    def split(self) -> Split:
        return Split(self.weights, frozenset(self.out))

    @property
    def share(self) -> float:
        """The share of the units that candidates answer."""
        return self.split.share

    @property
    def mirrored(self) -> list[str]:
        """Candidates that get copies of requests."""
        shadow = self.plan is not None and self.under_way and self.plan.stages[self.stage].shadow
        return self.living if shadow else []

    @property
    def living(self) -> list[str]:
        """Candidates that were not rolled back."""
        return [] if self.plan is None else [name for name in self.plan.candidates if name not in self.out]

    @property
    def last(self) -> bool:
        """Whether a promotion out of this stage gives one candidate all of the traffic."""
        return self.plan is not None and self.stage + 1 == len(self.plan.stages)

    @property
    def under_way(self) -> bool:
        return self.status in (RUNNING, HELD)

    def due(self, now: float) -> bool:
        """Whether a time that the plan waits for has come since the last event."""
        if self.plan is None or self.status != RUNNING:
            return False
        stage = self.plan.stages[self.stage]
        due = [seconds for seconds in (stage.min_time, stage.max_time) if seconds]
        return any(self.now <= self.entered + seconds < now for seconds in due)

    def known(self, candidate: str) -> Mapping[str, Any]:
        """What the log knows a candidate by."""
        several = self.plan is not None and len(self.plan.candidates) > 1
        found: Mapping[str, Any] = self.candidate.get(candidate, {}) if several else self.candidate
        return found

    def watched(self, candidate: str) -> dict[str, Watch]:
        """The evidence on one candidate, by guardrail."""
        names = () if self.plan is None else self.plan.guardrails
        return {name: self.watches[self.label(candidate, name)] for name in names}

    def label(self, candidate: str, guardrail: str) -> str:
        """What evidence is called: the guardrail, and which candidate where there are several."""
        several = self.plan is not None and len(self.plan.candidates) > 1
        return f"{candidate}: {guardrail}" if several else guardrail

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
                self._choice(event)
            case "edit":
                self._take_vote(event["id"], said_in(event))
            case "window":
                self.open = bool(event["open"])
            case "tick":
                pass
            case other:
                raise ArtifactError(
                    f"a rollout's log has no event {other!r}", fix="the log is of another version or damaged"
                )

    def _start(self, event: Event) -> None:
        self.plan, self.candidate = plan_of(event["plan"]), event.get("candidate", {})
        self.watches = {
            self.label(candidate, name): Watch(guardrail, candidate, self.plan.harm_limit)
            for candidate in self.plan.candidates
            for name, guardrail in self.plan.guardrails.items()
        }
        self.status, self.verdicts, self.out, self.chosen = RUNNING, [], set(), None
        self.open = not self.plan.windows
        self._requests, self._heard, self._votes = {}, set(), {}
        self._enter(0)

    def _enter(self, stage: int) -> None:
        assert self.plan is not None
        self.stage, self.entered = stage, self.now
        self.units, self._seen = dict.fromkeys((*self.plan.candidates, STABLE), 0), set()
        shares = self.plan.stages[stage].shares
        beside = {name: beside_stable(shares, name) for name in shares}
        self.ratios = {name: SampleRatio(share) for name, share in beside.items() if 0 < share < 1}

    def _shares(self, event: Event) -> Mapping[str, float]:
        """Of the moment at which a request was assigned: the stage's own object, if it is that stage."""
        assert self.plan is not None
        weights, share = self.weights, event.get("share")
        if share is None:
            return weights
        shares = share if isinstance(share, dict) else {self.plan.candidates[0]: float(share)}
        return weights if shares == weights else shares

    def _request(self, event: Event) -> None:
        if self.plan is None or event["unit"] in self.plan.excluded:
            return
        unit, arm, shares = event["unit"], event["arm"], self._shares(event)
        if arm not in (*self.plan.candidates, STABLE):
            return
        self._requests[event["id"]] = (unit, arm, shares)
        if len(self._requests) > RECENT:
            del self._requests[next(iter(self._requests))]
        aside = event.get("instead_of") or event.get("beside")
        if not self.under_way or self.share == 0 or arm in self.out or aside:
            return  # it proves nothing: it is over, or a shadow, whose evidence are pairs. Feedback may join it
        here = shares == self.weights
        if unit not in self._seen:
            self._seen.add(unit)
            self.units[arm] += 1
            for name, ratio in self.ratios.items():
                if here and arm in (name, STABLE):
                    ratio.add(arm == name)
        metrics = event["metrics"]
        for watch in self._about(arm):
            metric = watch.guardrail.metric
            if metric not in LATER or metric in metrics:
                watch.add(unit, arm, beside_stable(shares, watch.candidate), metrics.get(metric), here)
            elif metric == "score" and event.get("sampled") and here:
                watch.ask(unit, arm)

    def _about(self, arm: str) -> list[Watch]:
        """The evidence to which a reply of `arm` adds: stable is compared with every candidate that is left."""
        return [
            watch
            for watch in self.watches.values()
            if arm in (watch.candidate, STABLE) and watch.candidate not in self.out
        ]

    def _mirrored(self, event: Event) -> None:
        if self.plan is None or not self.under_way or self.share > 0:
            return
        unit, arm = event["unit"], event.get("arm", self.plan.candidates[0])
        for each in (arm, STABLE):
            if (each, unit) not in self._seen:
                self._seen.add((each, unit))
                self.units[each] += 1
        for watch in self._about(arm):
            metric = watch.guardrail.metric
            if metric not in LATER:
                watch.pair(unit, event["metrics"].get(metric), event["stable"].get(metric))
            elif metric == "score" and event.get("sampled"):
                watch.ask(unit, arm)
                watch.ask(unit, STABLE)

    def _judged(self, event: Event) -> None:
        """What is undecided stays so: `Watch.undecided` has it already."""
        if self.plan is None or not self.under_way or event["value"] is None:
            return
        unit, shares = event["unit"], self._shares(event)
        here = shares == self.weights
        for watch in self._about(event.get("arm", self.plan.candidates[0])):
            if watch.guardrail.metric != "score":
                continue
            if "stable" not in event:
                share = beside_stable(shares, watch.candidate)
                watch.add(unit, event["arm"], share, event["value"], here)
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
        if not self._take_vote(event["id"], said_in(event)) or not self.under_way:
            return
        unit, arm, shares = self._requests[event["id"]]
        for watch in self._about(arm):
            if watch.guardrail.metric == event["metric"]:
                share = beside_stable(shares, watch.candidate)
                watch.add(unit, arm, share, event["value"], shares == self.weights)

    def _choice(self, event: Event) -> None:
        """Evidence where one of the two replies is stable's and the other a candidate's."""
        worse = self._requests.get(event["over"])
        if not self._take_vote(event["id"], said_in(event)) or worse is None or not self.under_way:
            return
        better = self._requests[event["id"]]
        arms = {better[1], worse[1]}
        if STABLE not in arms or len(arms) < 2 or better[2] != self.weights or worse[2] != self.weights:
            return
        candidate = (arms - {STABLE}).pop()
        for watch in self._about(candidate):
            if watch.guardrail.metric in CHOICES:
                watch.choose(better[0], lost=worse[1] == candidate)

    def _verdict(self, event: Event) -> None:
        self.verdicts.append(event)
        assert self.plan is not None
        match event["action"]:
            case "promote" if not self.last:
                for watch in self.watches.values():
                    watch.next_stage()
                self._enter(self.stage + 1)
                self.status = RUNNING
            case "promote":
                self.status, self.chosen = PROMOTED, event.get("arm") or self.living[0]
            case "roll back":
                arm = event.get("arm")
                every = arm is None or arm == self.chosen
                self.out |= set(self.plan.candidates) if every else {str(arm)}
                self.ratios.pop(str(arm), None)
                self.status = self.status if self.living else ROLLED_BACK
            case "hold":
                self.status = HELD
            case "resume":  # the stage goes on, and its times begin anew
                self.status, self.entered = RUNNING, self.now


def share_said(weights: Mapping[str, float]) -> float | dict[str, float]:
    """`share` of an event: of one candidate its number, of several each one's."""
    return dict(weights) if len(weights) > 1 else math.fsum(weights.values())


def said_in(event: Event) -> str:
    """What feedback, a choice or an edit counts as among a request's votes, each of which is taken once."""
    if event["event"] == "feedback":
        return str(event["metric"])
    return f"over {event['over']}" if event["event"] == "choice" else f"edit {event['edit']}"


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
