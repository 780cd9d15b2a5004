"""Intervals cover what they say, by simulation; tests and quantiles are what scipy computes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from trivium.evaluate import statistics
from trivium.evaluate.statistics import Interval, Sums

RUNS = 1500
LEAST = 0.94 - 2 * (0.94 * 0.06 / RUNS) ** 0.5  # two standard errors of the simulation itself


def cluster_shares(rng, share: float, alike: float, count: int):
    """A share for each cluster, Beta distributed with intraclass correlation `alike`."""
    if not alike:
        return np.full(count, share)
    return rng.beta(share * (1 - alike) / alike, (1 - share) * (1 - alike) / alike, size=count)


def coverage(draw: Callable[[], tuple[Interval, float]], runs: int = RUNS) -> float:
    return float(np.mean([low <= truth <= high for (low, high), truth in (draw() for _ in range(runs))]))


@pytest.mark.parametrize(
    ("clusters", "size", "share", "alike", "uneven"),
    [(200, 1, 0.05, 0, False), (40, 1, 0.9, 0, False), (20, 5, 0.1, 0.3, False), (50, 5, 0.05, 0.3, False),
     (20, 10, 0.9, 0.5, True), (38, 3, 0.8, 0.7, True), (12, 8, 0.3, 0.2, True), (100, 3, 0.02, 0.2, False)],
)  # fmt: skip
def test_shares_are_covered_with_clusters_too(clusters, size, share, alike, uneven):
    rng = np.random.default_rng(1)

    def draw():
        sizes = rng.integers(1, 2 * size, clusters) if uneven else np.full(clusters, size)
        hits = rng.binomial(sizes, cluster_shares(rng, share, alike, clusters))
        return statistics.share_interval(Sums(hits.astype(float), sizes.astype(float))), share

    assert coverage(draw) >= LEAST


def test_ignoring_clusters_would_not_cover():
    rng = np.random.default_rng(1)

    def draw():
        hits = rng.binomial(10, cluster_shares(rng, 0.8, 0.7, 20))
        return statistics.wilson(hits.sum() / 200, 200), 0.8

    assert coverage(draw) < 0.7


@pytest.mark.parametrize("clusters", [15, 60])
def test_ratios_without_bounds_are_covered(clusters):
    rng = np.random.default_rng(2)

    def draw():
        weight = rng.integers(5, 50, clusters).astype(float)
        return statistics.mean_interval(Sums(rng.gamma(4, 0.25, clusters) * weight, weight)), 1.0

    assert coverage(draw, 300) >= 0.94 - 2 * (0.94 * 0.06 / 300) ** 0.5


@pytest.mark.parametrize(
    ("clusters", "size", "share", "alike", "changed"),
    [(100, 1, 0.5, 0, 0.2), (200, 1, 0.05, 0, 0.03), (40, 5, 0.3, 0.4, 0.2), (20, 5, 0.5, 0.2, 0.3)],
)
def test_a_model_no_worse_is_hardly_ever_called_worse(clusters, size, share, alike, changed):
    rng = np.random.default_rng(3)
    weight = np.full(clusters, float(size))
    worse = covered = 0
    for _ in range(RUNS):
        each = cluster_shares(rng, share, alike, clusters)[:, None]
        ours = rng.random((clusters, size)) < each
        anew = rng.random((clusters, size)) < changed
        theirs = np.where(anew, rng.random((clusters, size)) < each, ours)
        pair = (Sums(side.sum(1).astype(float), weight) for side in (ours, theirs))
        low, high = statistics.paired_share_interval(*pair)
        worse += high < 0
        covered += low <= 0 <= high
    assert worse / RUNS <= 0.05
    assert covered / RUNS >= LEAST


@given(st.floats(0, 1), st.integers(1, 2000))
def test_wilson_is_scipys(share, n):
    hits = round(share * n)
    theirs = stats.binomtest(hits, n).proportion_ci(0.95, "wilson")
    assert statistics.wilson(hits / n, n) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_is_the_binomial_test_of_what_changed(gained, lost):
    theirs = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert statistics.mcnemar(gained, lost) == pytest.approx(theirs, abs=1e-12)


@given(st.integers(1, 2000), st.floats(0.6, 0.9999))
def test_t_quantiles_are_scipys(degrees, p):
    assert statistics.t_quantile(p, degrees) == pytest.approx(float(stats.t.ppf(p, degrees)), rel=1e-6)


def test_sign_flips_agree_with_scipys_permutation_test():
    gains = np.array([3.0, 1, 2, -1, 4, 2, 0, 1, -2, 3])
    theirs = stats.permutation_test((gains,), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert statistics.sign_flip(gains) == pytest.approx(theirs.pvalue, abs=0.02)
    assert statistics.sign_flip(np.zeros(5)) == 1


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), min_size=1, max_size=30), st.randoms())
def test_the_order_of_rows_changes_nothing(rows, random):
    def interval(listed):
        clusters, hits = zip(*listed, strict=True)
        return statistics.share_interval(
            statistics.by_cluster(clusters, [float(h) for h in hits], [1.0] * len(hits))
        )

    shuffled = list(rows)
    random.shuffle(shuffled)
    assert interval(rows) == pytest.approx(interval(shuffled), abs=1e-12)


@given(st.integers(0, 30), st.integers(1, 30), st.integers(2, 8))
def test_saying_a_thing_several_times_is_no_evidence(hits, clusters, times):
    """Copies of an item within its cluster leave the interval at least as wide as without them."""
    value = np.array([1.0] * min(hits, clusters) + [0.0] * max(0, clusters - hits))
    once = statistics.share_interval(Sums(value, np.ones(clusters)))
    often = statistics.share_interval(Sums(value * times, np.full(clusters, float(times))))
    assert often.high - often.low >= once.high - once.low - 1e-9


def test_what_is_detectable_is_detected_in_four_of_five_runs():
    truth = statistics.detectable_share(120, 0.1, upper=True)
    hits = np.random.default_rng(5).binomial(120, truth, 4000)
    shown = [statistics.wilson(k / 120, 120).high <= 0.1 for k in hits]
    assert np.mean(shown) == pytest.approx(0.8, abs=0.03)
    assert statistics.detectable_share(120, 0.9, upper=False) == pytest.approx(1 - truth)
    assert statistics.detectable_share(20, 0.01, upper=True) is None  # too few to show anything


def test_nothing_known_is_said_so():
    nothing = Sums(np.array([]), np.array([]))
    assert statistics.share_interval(nothing) == (0, 1)
    assert statistics.mean_interval(nothing) == statistics.UNKNOWN
    assert statistics.mean_interval(Sums(np.array([3.0]), np.array([1.0]))) == statistics.UNKNOWN
    assert statistics.paired_share_interval(nothing, nothing) == (-1, 1)
