"""Coverage and width of intervals for shares and paired differences, by simulation: what `evaluate.statistics` takes beside the
bootstraps over clusters that are usual.

    python benchmarks/intervals.py                 1,000 draws of each setting
    python benchmarks/intervals.py --runs 100      a check that it works

A setting has clusters of items whose shares are Beta distributed (intraclass correlation `alike`); in a paired one an item of the
second model is drawn anew with probability `changed`, from a share that is `shift` higher. Nominal: 95%.

  ours         evaluate.statistics.share_interval, paired_share_interval
  percentile   quantiles of ratios (or of differences of ratios) of clusters drawn with replacement, both models' rows together
  bootstrap-t  the same draws, studentised (evaluate.statistics.mean_interval, paired_mean_interval)
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from trivium.evaluate import statistics
from trivium.evaluate.statistics import Interval, Sums

DRAWS = 1000


class Setting(NamedTuple):
    clusters: int
    size: int
    share: float
    alike: float
    changed: float = 0.0
    shift: float = 0.0


SINGLE = [
    Setting(200, 1, 0.05, 0), Setting(40, 1, 0.9, 0), Setting(20, 5, 0.1, 0.3), Setting(50, 5, 0.05, 0.3),
    Setting(20, 10, 0.9, 0.5), Setting(38, 3, 0.8, 0.7), Setting(12, 8, 0.3, 0.2), Setting(100, 3, 0.02, 0.2),
]  # fmt: skip
PAIRED = [
    Setting(100, 1, 0.5, 0, 0.2), Setting(200, 1, 0.05, 0, 0.03), Setting(40, 5, 0.3, 0.4, 0.2),
    Setting(20, 5, 0.5, 0.2, 0.3), Setting(24, 2, 0.5, 0.3, 1.0, 0.3), Setting(20, 5, 0.1, 0.3, 1.0, 0.2),
    Setting(12, 8, 0.1, 0.3, 0.1, 0.1), Setting(50, 3, 0.02, 0.2, 0.2, 0.1), Setting(200, 5, 0.3, 0.3, 0.3, 0.1),
]  # fmt: skip


def draws(one: Setting, rng: np.random.Generator) -> tuple[list[Sums], float]:
    """Sums of the model, and of the second one if there is one; the true value."""
    each = np.full(one.clusters, one.share)
    if one.alike:
        each = rng.beta(*(s * (1 - one.alike) / one.alike for s in (one.share, 1 - one.share)), one.clusters)
    each, weight = each[:, None], np.full(one.clusters, float(one.size))
    first = rng.random((one.clusters, one.size)) < each
    if not one.changed:
        return [Sums(first.sum(1).astype(float), weight)], one.share
    # anew, an item is a hit with the cluster's share moved towards 1: the mean moves by `shift`
    moved = each + (1 - each) * one.shift / (1 - one.share)
    anew = rng.random(first.shape) < one.changed
    second = np.where(anew, rng.random(first.shape) < moved, first)
    return [Sums(side.sum(1).astype(float), weight) for side in (second, first)], one.shift * one.changed


def ours(parts: list[Sums]) -> Interval:
    return statistics.share_interval(*parts) if len(parts) == 1 else statistics.paired_share_interval(*parts)


def studentised(parts: list[Sums]) -> Interval:
    return statistics.mean_interval(*parts) if len(parts) == 1 else statistics.paired_mean_interval(*parts)


@lru_cache
def resampled(count: int) -> np.ndarray:
    """(draws, clusters): how often each cluster is in a draw."""
    return np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), DRAWS).astype(float)


def percentile(parts: list[Sums]) -> Interval:
    count = len(parts[0].weight)
    drawn = resampled(count)
    found = [(drawn @ part.value) / (drawn @ part.weight) for part in parts]
    low, high = np.quantile(found[0] - found[1] if len(found) > 1 else found[0], [0.025, 0.975])
    return Interval(float(low), float(high))


METHODS: dict[str, Callable[[list[Sums]], Interval]] = {
    "ours": ours, "percentile": percentile, "bootstrap-t": studentised,
}  # fmt: skip


def measured(one: Setting, runs: int) -> Iterator[tuple[str, float, float]]:
    """Name of a method, its coverage, and its median width (infinite ones are 2)."""
    rng = np.random.default_rng(1)
    made = [draws(one, rng) for _ in range(runs)]
    for name, method in METHODS.items():
        found = [(method(parts), truth) for parts, truth in made]
        covered = np.mean([low - 1e-12 <= truth <= high + 1e-12 for (low, high), truth in found])
        yield (
            name, float(covered), float(np.median([min(2.0, high - low) for (low, high), _ in found])),
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--of", choices=["shares", "differences"], help="one of the two tables alone")
    given = parser.parse_args()
    print(f"| clusters x items, share, alike, changed, shift | {' | '.join(METHODS)} |")
    print("|---|" + "---|" * len(METHODS))
    settings = {"shares": SINGLE, "differences": PAIRED}
    for one in settings[given.of] if given.of else (*SINGLE, *PAIRED):
        cells = [f"{covered:.1%} ({width:.3f})" for _, covered, width in measured(one, given.runs)]
        label = f"{one.clusters} x {one.size}, {one.share:g}, {one.alike:g}"
        if one.changed:
            label += f", {one.changed:g}, {one.shift:g}"
        print(f"| {label} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
