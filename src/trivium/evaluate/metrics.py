"""From the table of rows to figures: each metric with its interval, what it rests on, and the distance from the baseline."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from trivium.evaluate import statistics
from trivium.evaluate.rows import NO_VERDICT, Row
from trivium.evaluate.statistics import CONFIDENCE, Interval, Sums
from trivium.recipe.suite import Metric

MOST = 2
"""Reasons that stand beside a figure; the rows have all."""


@dataclass(frozen=True)
class Estimate:
    """A metric of one model. `value` None: nothing was decided, so nothing is known.

    In a share, what is undecided stands in the denominator and is no hit.
    """

    value: float | None
    low: float | None
    high: float | None
    asked: int
    clusters: int
    undecided: int
    reasons: Mapping[str, int] = field(default_factory=dict)
    """The `MOST` most frequent reasons of undecided rows, and of how many."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Cell:
    """One item as a metric counts it. value None: undecided."""

    cluster: str
    value: float | None
    weight: float
    reason: str = ""
    """Why it is undecided."""


def _told(reason: str) -> str:
    """A reason as it is counted: without its numbers, and without what a judge said in the place of a verdict."""
    if reason.startswith(NO_VERDICT):
        return NO_VERDICT.removesuffix(": ")
    return re.sub(r"\d+", "N", " ".join(reason.split()))


Key = tuple[str, int]


class Evidence:
    """The cells of one metric of one model, and what can be said of them at any confidence."""

    def __init__(self, metric: Metric, cells: Mapping[Key, Cell]) -> None:
        self.metric, self.cells = metric, dict(sorted(cells.items()))

    @property
    def undecided(self) -> int:
        return sum(cell.value is None for cell in self.cells.values())

    @property
    def clusters(self) -> int:
        return len({cell.cluster for cell in self.cells.values()})

    @property
    def is_share(self) -> bool:
        """Whether every value lies in [0, 1]."""
        return self.metric.form in ("share", "wins", "gains") or self.metric.bounds == (0.0, 1.0)

    def sums(self, undecided: float | None) -> Sums:
        """`undecided`: what they count as; None leaves them out."""
        kept = [c for c in self.cells.values() if c.value is not None or undecided is not None]
        values = [undecided if c.value is None else c.value for c in kept]
        return statistics.by_cluster(
            [c.cluster for c in kept], [v or 0.0 for v in values], [c.weight for c in kept]
        )

    def estimate(self) -> Estimate:
        """The figure for tables: undecided rows are no hits in a share, and left out of a mean without bounds."""
        decided = len(self.cells) - self.undecided
        value, interval = None, statistics.UNKNOWN
        if decided:
            sums = self.sums(0.0 if self.is_share else None)
            value, interval = finite(sums.estimate), self._interval(sums, CONFIDENCE)
        reasons = Counter(_told(cell.reason) for cell in self.cells.values() if cell.value is None)
        return Estimate(
            value, finite(interval.low), finite(interval.high), len(self.cells), self.clusters, self.undecided,
            dict(sorted(reasons.items(), key=lambda one: (-one[1], one[0]))[:MOST]),
        )  # fmt: skip

    def bound(self, confidence: float) -> Interval:
        """The interval that gates see: at each end, undecided rows are what moves it there."""
        if not self.cells:
            return statistics.UNKNOWN
        if not self.undecided:
            return self._interval(self.sums(None), confidence)
        if not self.is_share:
            return statistics.UNKNOWN
        least, most = (self._interval(self.sums(end), confidence) for end in (0.0, 1.0))
        return Interval(least.low, most.high)

    def grown(self, confidence: float, factor: float) -> Interval:
        """The interval of a share with `factor` times as many clusters like these."""
        return statistics.share_interval(self.sums(0.0), confidence, factor)

    def _interval(self, sums: Sums, confidence: float) -> Interval:
        if self.is_share:
            return statistics.share_interval(sums, confidence)
        return statistics.mean_interval(sums, confidence)


def finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def evidence(
    metric: Metric, suite: str, rows: Sequence[Row], model: str, baseline: str | None
) -> Evidence | None:
    """What the table holds of a metric of `model`; None where it has none (it compares with the baseline, and is it)."""
    if metric.paired and baseline in (None, model):
        return None
    ours = _judged(metric, suite, rows, model)
    if not metric.paired:
        return Evidence(metric, {key: _cell(metric, row) for key, row in ours.items()})
    theirs = _judged(metric, suite, rows, str(baseline))
    return Evidence(metric, {key: _against(metric, row, theirs.get(key)) for key, row in ours.items()})


def _judged(metric: Metric, suite: str, rows: Sequence[Row], model: str) -> dict[Key, Row]:
    return {
        (row.item, row.attempt): row
        for row in rows
        if row.suite == suite
        and row.model == model
        and row.judge == metric.judge
        and metric.counts(row.category)
    }


def _cell(metric: Metric, row: Row) -> Cell:
    if not row.decided:
        return Cell(row.cluster, None, 1.0, row.reason)
    if metric.form == "share":
        return Cell(row.cluster, float(row.outcome == "hit"), 1.0)
    return Cell(row.cluster, row.score, row.weight if metric.form == "ratio" else 1.0)


def _against(metric: Metric, ours: Row, theirs: Row | None) -> Cell:
    """An item as won or lost against the baseline's row of the same item; undecided if either is."""
    if theirs is None or ours.score is None or theirs.score is None or not (ours.decided and theirs.decided):
        why = ours.reason or (
            "the baseline was not asked" if theirs is None else f"the baseline: {theirs.reason}"
        )
        return Cell(ours.cluster, None, 1.0, why)
    gain = ours.score - theirs.score
    tie = 0.5 if metric.form == "wins" else 0.0
    return Cell(ours.cluster, 1.0 if gain > 0 else tie if gain == 0 else 0.0, 1.0)


@dataclass(frozen=True)
class Difference:
    """A metric of a model minus that of another on the same items. `gained` and `lost` count items of a share that changed."""

    value: float | None
    low: float | None
    high: float | None
    p: float | None
    items: int
    gained: int
    lost: int
    undecided: int


class Paired:
    """Two models on the same items: those that both were asked, paired by item and attempt."""

    def __init__(self, ours: Evidence, theirs: Evidence) -> None:
        self.metric = ours.metric
        self.keys = [key for key in ours.cells if key in theirs.cells]
        self.left_out = len(ours.cells) + len(theirs.cells) - 2 * len(self.keys)
        self.ours, self.theirs, self.is_share = ours, theirs, ours.is_share

    def _sums(self, undecided: tuple[float, float] | None) -> tuple[Sums, Sums]:
        ours, theirs = ([side.cells[key] for key in self.keys] for side in (self.ours, self.theirs))
        kept = [
            (a, b)
            for a, b in zip(ours, theirs, strict=True)
            if undecided is not None or (a.value is not None and b.value is not None)
        ]
        ends = undecided or (0.0, 0.0)
        parts = []
        for side, end in enumerate(ends):
            cells = [pair[side] for pair in kept]
            values = [end if cell.value is None else cell.value for cell in cells]
            clusters = [pair[0].cluster for pair in kept]
            parts.append(statistics.by_cluster(clusters, values, [cell.weight for cell in cells]))
        return parts[0], parts[1]

    @property
    def undecided(self) -> int:
        return sum(
            self.ours.cells[key].value is None or self.theirs.cells[key].value is None for key in self.keys
        )

    def bound(self, confidence: float) -> Interval:
        """The interval of ours minus theirs that gates see; unknown where the two were not asked the same."""
        if not self.keys or self.left_out:
            return statistics.UNKNOWN
        if not self.is_share:
            if self.undecided:
                return statistics.UNKNOWN
            return statistics.paired_mean_interval(*self._sums(None), confidence)
        least = statistics.paired_share_interval(*self._sums((0.0, 1.0)), confidence)
        most = statistics.paired_share_interval(*self._sums((1.0, 0.0)), confidence)
        return Interval(least.low, most.high)

    def difference(self) -> Difference:
        """For tables: of the items on which both are decided."""
        ours, theirs = self._sums(None)
        items = len(self.keys) - self.undecided
        if not items:
            return Difference(None, None, None, None, 0, 0, 0, self.undecided)
        if self.is_share:
            interval = statistics.paired_share_interval(ours, theirs)
        else:
            interval = statistics.paired_mean_interval(ours, theirs)
        changes = [
            b.value - a.value
            for key in self.keys
            if (b := self.ours.cells[key]).value is not None
            and (a := self.theirs.cells[key]).value is not None
            and b.value is not None and a.value is not None
        ]  # fmt: skip
        gained, lost = sum(c > 0 for c in changes), sum(c < 0 for c in changes)
        single = len(ours.weight) == items
        exact = self.metric.form == "share" and single
        p = (
            statistics.mcnemar(gained, lost)
            if exact
            else statistics.sign_flip(ours.value - theirs.value * _scale(ours, theirs))
        )
        return Difference(
            finite(ours.estimate - theirs.estimate), finite(interval.low), finite(interval.high), p,
            items, gained, lost, self.undecided,
        )  # fmt: skip


def _scale(ours: Sums, theirs: Sums) -> float:
    """So that ratios with other weights (another tokenizer's tokens) stand on one scale."""
    total = float(theirs.weight.sum())
    return float(ours.weight.sum()) / total if total else 1.0
