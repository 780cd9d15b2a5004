"""Gates: functions of the table alone, with three results. A gate passes only if the whole interval keeps its bound.

Undecided rows count as whatever is worst for the bound. The gates of a stage are tested together by Holm's step-down procedure
(1979): with m gates still open, each is held against an interval of confidence 1 - 0.05 / m; those that are decided leave, and
the rest see a narrower one. A metric of a contaminated suite cannot pass, and neither can one that was not measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trivium.evaluate import statistics
from trivium.evaluate.metrics import Estimate, Evidence, Paired, evidence, finite
from trivium.evaluate.rows import Row
from trivium.evaluate.statistics import CONFIDENCE, Interval
from trivium.recipe.evaluation import EvaluateStage, Gate
from trivium.recipe.suite import DataSuite, Metric
from trivium.recipe.suites import ALWAYS_MEASURED, metrics_of

ALPHA = 1 - CONFIDENCE
MOST = 1e7
"""Items beyond which no advice is given."""


@dataclass
class Claim:
    """One gate with what it is about: an interval at any confidence, and between which ends it has to lie."""

    gate: Gate
    interval: Callable[[float], Interval]
    low: float
    high: float
    value: float | None
    items: int
    undecided: int
    exact: bool = False
    """Nothing was drawn at random: the size of a file."""
    blocked: str = ""
    """Why it cannot pass whatever was found."""
    share: Evidence | None = None
    """Where it is about a share: what the interval of more items is worked out from."""

    def grown(self, confidence: float, factor: float) -> Interval:
        """The interval with `factor` times as many items like these."""
        if self.share is not None:
            return self.share.grown(confidence, factor)
        low, high = self.interval(confidence)
        value = math.nan if self.value is None else self.value
        return Interval(value + (low - value) / math.sqrt(factor), value + (high - value) / math.sqrt(factor))


def claims(
    config: EvaluateStage,
    rows: Sequence[Row],
    constants: Mapping[str, Estimate],
    contaminated: Mapping[str, int],
) -> dict[str, Claim]:
    """Gate -> its claim. `constants`: what is measured of every model without rows, of the tested one."""
    measured = metrics_of(list(config.suites))
    result = {}
    for name, gate in config.gates.items():
        if name in ALWAYS_MEASURED:
            result[name] = _constant(gate, constants.get(name))
            continue
        if name not in measured:
            result[name] = _constant(gate, None)
            continue
        suite, metric = measured[name]
        dirty = contaminated.get(suite.data, 0) if isinstance(suite, DataSuite) else 0
        ours = evidence(metric, suite.title, rows, config.model, config.baseline)
        theirs = (
            evidence(metric, suite.title, rows, config.baseline, None)
            if config.baseline and not metric.paired
            else None
        )
        result[name] = _claim(gate, metric, ours, theirs)
        if dirty:
            result[name].blocked = f"contaminated: {dirty} items share words with training documents"
    return result


def _constant(gate: Gate, found: Estimate | None) -> Claim:
    """Of what has no rows: its interval is what it was seen to be. None: it was not measured."""
    if found is None or found.low is None or found.high is None:
        unmeasured = Claim(gate, lambda confidence: statistics.UNKNOWN, *_ends(gate), None, 0, 0, exact=True)
        unmeasured.blocked = "not measured"
        return unmeasured
    seen = Interval(found.low, found.high)
    return Claim(gate, lambda confidence: seen, *_ends(gate), found.value, found.asked, 0, exact=True)


def _ends(gate: Gate) -> tuple[float, float]:
    if gate.max_abs is not None:
        return -gate.max_abs, gate.max_abs
    return (-math.inf if gate.min is None else gate.min), (math.inf if gate.max is None else gate.max)


def _claim(gate: Gate, metric: Metric, ours: Evidence | None, theirs: Evidence | None) -> Claim:
    if ours is None or not ours.cells:
        return _constant(gate, None)
    if gate.no_worse_than_baseline is None:
        estimate = ours.estimate()
        claim = Claim(gate, ours.bound, *_ends(gate), estimate.value, estimate.asked, estimate.undecided)
        claim.share = ours if ours.is_share else None
        if (
            estimate.value is None
        ):  # a bound that even the worst case keeps must not pass on no evidence at all
            claim.blocked = f"nothing was decided: all {estimate.asked} rows are undecided"
        return claim
    if theirs is None or not theirs.cells:
        claim = _constant(gate, None)
        claim.blocked = "the baseline was not measured"
        return claim
    paired, margin = Paired(ours, theirs), gate.no_worse_than_baseline
    low, high = (-margin, math.inf) if metric.better >= 0 else (-math.inf, margin)
    difference = paired.difference()
    claim = Claim(
        gate, paired.bound, low, high, difference.value, len(paired.keys), difference.undecided
    )  # fmt: skip
    if paired.left_out:
        claim.blocked = f"{paired.left_out} items were asked of one of the two models only"
    return claim


def judge(
    config: EvaluateStage,
    rows: Sequence[Row],
    constants: Mapping[str, Estimate] | None = None,
    contaminated: Mapping[str, int] | None = None,
) -> dict[str, dict[str, Any]]:
    """Each gate with its bounds, what was found, and its result: passed, failed or undecided, with what would decide it."""
    open_ = claims(config, rows, constants or {}, contaminated or {})
    every = dict(open_)
    results: dict[str, dict[str, Any]] = {}
    while open_:
        level = 1 - ALPHA / max(1, sum(not claim.exact for claim in open_.values()))
        decided = {
            name: verdict
            for name, claim in open_.items()
            if (verdict := _decide(claim, level)) != "undecided"
        }
        if not decided:
            results |= {name: _told(claim, "undecided", level) for name, claim in open_.items()}
            break
        results |= {name: _told(open_.pop(name), verdict, level) for name, verdict in decided.items()}
    return {name: results[name] for name in every}


def _decide(claim: Claim, level: float) -> str:
    verdict = _within(claim, claim.interval(level))
    return "undecided" if verdict == "passed" and claim.blocked else verdict


def _within(claim: Claim, interval: Interval) -> str:
    low, high = interval
    if high < claim.low or low > claim.high:
        return "failed"
    return "passed" if claim.low <= low and high <= claim.high else "undecided"


def _told(claim: Claim, result: str, level: float) -> dict[str, Any]:
    low, high = claim.interval(level)
    more = _more(claim, level) if result == "undecided" and not claim.blocked else None
    reason = claim.blocked
    if result == "undecided" and not reason:
        reason = f"the interval [{low:.3g}, {high:.3g}] lies on both sides of the bound"
        if claim.undecided:
            reason += f", {claim.undecided} undecided rows counted as the worst"
        reason += (
            f"; about {more:,} more items would decide it"
            if more
            else "; more items would not decide it while rows are undecided or the value stays so near the bound"
        )
    return {
        **claim.gate.model_dump(),
        "value": claim.value,
        "low": finite(low),
        "high": finite(high),
        "confidence": level,
        "items": claim.items,
        "undecided": claim.undecided,
        "more_items": more,
        "result": result,
        "reason": reason,
        "passed": result == "passed",
    }


def _more(claim: Claim, level: float) -> int | None:
    """How many more items of the same kind decide it, if the value stays what it is; None if no number up to `MOST` does."""
    if claim.value is None or claim.undecided or not claim.items:
        return None

    def decides(factor: float) -> bool:
        return _within(claim, claim.grown(level, factor)) != "undecided"

    low, high = 1.0, 2.0
    while not decides(high):
        low, high = high, 2 * high
        if claim.items * high > MOST:
            return None
    while (high - low) * claim.items > 1:
        middle = (low + high) / 2
        low, high = (low, middle) if decides(middle) else (middle, high)
    return math.ceil(claim.items * (high - 1))


def detectable(config: EvaluateStage, clusters_of: Mapping[str, Sequence[tuple[str, str]]]) -> list[str]:
    """What each gate can show at all with what will be asked, in words: printed before the first question.

    `clusters_of`: title of a suite -> category and cluster of each of its items. Reckoned as if the items of a cluster said the
    same: how far they do is known only afterwards.
    """
    level = 1 - ALPHA / max(1, len(config.gates))
    lines = []
    for name, (suite, metric) in metrics_of(list(config.suites)).items():
        gate = config.gates.get(name)
        if gate is None or (metric.bounds is None and metric.form == "mean"):
            continue
        asked = clusters_of.get(suite.title, ())
        clusters = [cluster for category, cluster in asked if metric.counts(category)]
        shown = _detectable(metric, gate, len(set(clusters)), level)
        if shown:
            lines.append(
                f"{name}, {len(clusters)} items in {len(set(clusters))} clusters: {'; '.join(shown)}"
            )
    return lines


def _detectable(metric: Metric, gate: Gate, n: int, level: float) -> list[str]:
    said = []
    if metric.form != "ratio":
        for bound, upper, word in ((gate.max, True, "at most"), (gate.min, False, "at least")):
            if bound is None:
                continue
            value = statistics.detectable_share(n, bound, upper=upper, confidence=level)
            said.append(
                f"can show {word} {bound:g} only if the true value is {word} {value:.3f} (4 of 5 runs)"
                if value is not None
                else f"cannot show {word} {bound:g}: too few items, whatever the model does"
            )
        if gate.no_worse_than_baseline is not None:
            effect = statistics.detectable_difference(n, gate.no_worse_than_baseline, confidence=level)
            said.append(
                f"shows no worse by {gate.no_worse_than_baseline:g} only if it is "
                f"{'worse by at most' if effect >= 0 else 'better by at least'} {abs(effect):.3f} "
                "(4 of 5 runs, if one item in ten changes)"
            )
    return said
