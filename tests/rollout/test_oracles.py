"""The evidence beside libraries of others, number by number.

ville and savvi come with the dev extra. gbstats (0.8.0) wants pandas below 2, which knows no numpy of today: it was compared in
an environment of its own (`pip install gbstats 'numpy<2' scipy pydantic pyyaml filelock rich pytest`), with `--noconftest`.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from trivium.rollout.evidence import Means, Moments, SampleRatio


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_the_sample_ratio_is_savvis_multinomial(share: float) -> None:
    savvi = pytest.importorskip("savvi.multinomial", reason="pip install savvi")
    random, ours = np.random.default_rng(1), SampleRatio(share)
    theirs = savvi.Multinomial(0.01, np.array([share, 1 - share]), k=1000)
    for inside in random.random(500) < share + 0.02:
        ours.add(bool(inside))
        theirs.update(np.array([inside, not inside], dtype=np.int64))
        assert ours.log_e == pytest.approx(math.log(theirs.odds), abs=1e-6)


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_the_sample_ratio_is_villes_bernoulli_test(share: float) -> None:
    """A Beta prior around the share is their prior."""
    ville = pytest.importorskip("ville", reason="pip install ville")
    found, ours = np.random.default_rng(4).random(2000) < share + 0.02, SampleRatio(share)
    theirs = ville.BernoulliTest(share, prior=(1000 * share, 1000 * (1 - share))).fit(found.astype(float))
    for inside, log_e in zip(found, theirs.log_e_values_, strict=True):
        ours.add(bool(inside))
        assert ours.log_e == pytest.approx(log_e, abs=1e-6)


def test_intervals_are_those_of_gbstats() -> None:
    """Their tuning parameter is a number of units, ours a difference that matters: tau = rho sqrt(N Var(difference))."""
    tests = pytest.importorskip("gbstats.frequentist.tests", reason="pip install gbstats")
    statistics = pytest.importorskip("gbstats.models.statistics", reason="pip install gbstats")
    random, alpha = np.random.default_rng(2), 0.05
    for stable, candidate in ((400, 100), (1000, 1000), (5000, 60)):
        values = random.normal(0, 1, stable), random.normal(0.1, 2, candidate)
        arms = [statistics.SampleMeanStatistic(len(x), float(x.sum()), float((x**2).sum())) for x in values]
        theirs = tests.SequentialTwoSidedTTest(
            *arms, tests.SequentialConfig(alpha=alpha, difference_type="absolute")
        )
        variance = sum(float(np.var(x, ddof=1)) / len(x) for x in values)
        ours = Means(float(theirs.rho) * math.sqrt((stable + candidate) * variance))
        for arm, found in zip((False, True), values, strict=True):
            for value in found:
                ours.add(arm, float(value))
        assert ours.interval(alpha) == pytest.approx(theirs.confidence_interval, rel=1e-6)


@pytest.mark.parametrize("count", [50, 300, 2000])
def test_two_sided_evidence_is_villes_msprt(count: int) -> None:
    """The mean of both one-sided e-processes is the two-sided one, since Phi(x) + Phi(-x) = 1; stable is known exactly here."""
    ville = pytest.importorskip("ville", reason="pip install ville")
    values, tau = np.random.default_rng(3).normal(0.1, 1, count), 0.2
    known = Moments(10**12, 0.0, 0.0)
    ours = Means(tau, stable=known)
    for value in values:
        ours.candidate.add(float(value))
    theirs = ville.MSPRT(sigma=float(np.std(values, ddof=1)), tau=tau).fit(values).log_e_values_[-1]
    both = np.logaddexp(ours.log_e(), ours.log_e(smaller=True)) - math.log(2)
    assert both == pytest.approx(theirs, rel=1e-6, abs=1e-9)
