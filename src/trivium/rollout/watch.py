"""The evidence on one guardrail, as a rollout's log brings it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

from trivium.rollout.assign import CANDIDATE, STABLE
from trivium.rollout.evidence import Flips, Means, Quantiles
from trivium.rollout.plan import BETTER_HIGH, EVENTS, SHARES, TIMES, Guardrail


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


@dataclass
class Watch:
    """The evidence on one guardrail of one candidate: of all stages for events, of each stage and the product of earlier ones for
    means."""

    guardrail: Guardrail
    candidate: str = CANDIDATE
    limit: float = math.inf
    """log e at which harm is proven."""
    flips: Flips = field(init=False)
    means: Means = field(init=False)
    earlier: dict[str, float] = field(default_factory=lambda: {"harm": 0.0, "within": 0.0})
    absent: dict[str, int] = field(init=False)
    """Replies of this stage, by arm, that lacked the metric or gave no number."""
    undecided: dict[str, set[str]] = field(init=False)
    """Units of this stage, by arm, of whose replies a judge has decided none yet, though it was asked."""
    spread: dict[str, Quantiles] = field(init=False)
    """Of this stage, by arm, where the metric is the logarithm of a time."""
    _counted: set[str] = field(init=False)
    _failed: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.flips = Flips(self.limit)
        self._begin()

    def _begin(self) -> None:
        """A stage of which nothing is known yet."""
        tau = (self.guardrail.within or 0.01) if self.guardrail.is_event else self.guardrail.tau
        self.means, self._counted = Means(tau, shares=self.guardrail.metric in (*EVENTS, *SHARES)), set()
        timed = self.guardrail.metric in TIMES
        self.spread = {self.candidate: Quantiles(), STABLE: Quantiles()} if timed else {}
        self.absent = {self.candidate: 0, STABLE: 0}
        self.undecided = {self.candidate: set(), STABLE: set()}

    def add(self, unit: str, arm: str, share: float, value: Any, here: bool = True) -> None:
        """One reply: a unit counts with its first value of a stage, and with its first bad event of the rollout.

        `share`: the candidate's among the units of both arms. `here`: it was assigned in this stage. A reply that had begun in
        the one before says nothing about this one's means.
        """
        if not _is_number(value):
            self.absent[arm] += 1
            return
        candidate = arm == self.candidate
        if self.guardrail.is_event and value and unit not in self._failed:
            self._failed.add(unit)
            self.flips.add(candidate, share)
        if here and unit not in self._counted:
            self._count(unit)
            self._mean(arm, float(value))

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
        for arm, value in ((self.candidate, candidate), (STABLE, stable)):
            self.absent[arm] += not _is_number(value)
        if not (_is_number(candidate) and _is_number(stable)):
            return
        if self.guardrail.is_event and bool(candidate) != bool(stable) and unit not in self._failed:
            self._failed.add(unit)
            self.flips.add(bool(candidate), 0.5)
        if unit not in self._counted:
            self._count(unit)
            self._mean(self.candidate, float(candidate))
            self._mean(STABLE, float(stable))

    def _mean(self, arm: str, value: float) -> None:
        self.means.add(arm == self.candidate, value)
        if arm in self.spread:
            self.spread[arm].add(value)

    def choose(self, unit: str, lost: bool) -> None:
        """One of two replies side by side was liked less: the candidate's with probability 1/2 if the arms are alike. Once a
        unit. Stable's mean is that half, which is known."""
        if unit in self._failed:
            return
        self._failed.add(unit)
        self.flips.add(lost, 0.5)
        self._count(unit)
        self.means.add(True, float(lost))
        self.means.add(False, 0.5)

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
        worst, best = len(self.undecided[self.candidate]), len(self.undecided[STABLE])
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
        self._begin()
