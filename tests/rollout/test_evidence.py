"""E-processes against their definition, against another library, and by simulation: looked at after every event."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivium.rollout.evidence import RATIO, Flips, Means, Moments, Quantiles, SampleRatio, alarm

RUNS = 300


@given(st.lists(st.tuples(st.booleans(), st.floats(0.01, 0.99)), min_size=1, max_size=30))
def test_flips_are_the_papers_product(events: list[tuple[bool, float]]) -> None:
    flips = Flips()
    for candidate, share in events:
        flips.add(candidate, share)
    e = 1.0
    for candidate, share in events:
        theta = share * RATIO / (share * RATIO + 1 - share)
        e *= theta / share if candidate else (1 - theta) / (1 - share)
    assert float(flips.log_e) == pytest.approx(math.log(e), abs=1e-9)


@given(st.lists(st.booleans(), max_size=12), st.floats(0.01, 0.99), st.floats(0.5, 8))
def test_a_flip_is_a_fair_bet(before: list[bool], share: float, limit: float) -> None:
    """The expected e after one more event is the e before it, whatever the share, and wherever the limit."""
    inside, outside = Flips(limit), Flips(limit)
    for candidate in before:
        inside.add(candidate, share)
        outside.add(candidate, share)
    now = float(inside.log_e)
    inside.add(True, share)
    outside.add(False, share)
    expected = share * math.exp(inside.log_e) + (1 - share) * math.exp(outside.log_e)
    assert expected == pytest.approx(math.exp(now))


@given(st.lists(st.booleans(), max_size=40), st.floats(0.01, 0.99), st.floats(0.5, 8))
def test_a_bet_reaches_the_limit_and_stays_there(events: list[bool], share: float, limit: float) -> None:
    flips, free, reached = Flips(limit), Flips(), False
    for candidate in events:
        flips.add(candidate, share)
        free.add(candidate, share)
        reached |= bool(free.log_e >= limit)
        assert float(flips.log_e) <= limit * (1 + 1e-9)
        assert not reached or flips.log_e >= limit  # whatever would have been proven without the limit is


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=50))
def test_moments_are_numpys(values: list[float]) -> None:
    moments = Moments()
    for value in values:
        moments.add(value)
    assert float(moments.mean) == pytest.approx(np.mean(values), abs=1e-6)
    assert float(moments.variance_of_mean) == pytest.approx(np.var(values, ddof=1) / len(values), abs=1e-6)


def test_arrays_are_many_rollouts_at_once() -> None:
    random = np.random.default_rng(0)
    arms, values = random.random((200, 3)) < 0.5, random.normal(size=(200, 3))
    together = Means(0.1)
    for arm, value in zip(arms, values, strict=True):
        together.add(arm, value)
    for run in range(3):
        alone = Means(0.1)
        for arm, value in zip(arms[:, run], values[:, run], strict=True):
            alone.add(bool(arm), float(value))
        assert float(alone.log_e()) == pytest.approx(together.log_e()[run])
        assert float(alone.interval(0.05)[1]) == pytest.approx(together.interval(0.05)[1][run])


def alarms(share, stable, candidate, steps: int, seed: int) -> np.ndarray:
    """For each of RUNS rollouts, the request at which Flips first alarms (0: never), looked at after each of them."""
    random, flips = np.random.default_rng(seed), Flips(math.log(20))
    first = np.zeros(RUNS, int)
    for step in range(steps):
        arm = random.random(RUNS) < share(step)
        bad = random.random(RUNS) < np.where(arm, candidate(step), stable(step))
        flips.add(arm, share(step), bad)
        first = np.where((first == 0) & alarm(flips.log_e, 0.05, 1), step + 1, first)
    return first


def test_no_false_alarms_under_a_ramp_with_weather() -> None:
    """Shares of 1, 5, 25 and 50%, and the error rate of both arms rises from .2 to 3% meanwhile."""

    def share(step: int) -> float:
        return (0.01, 0.05, 0.25, 0.5)[step // 1000]

    def rate(step: int) -> float:
        return (0.002, 0.005, 0.01, 0.03)[step // 1000]

    assert (alarms(share, rate, rate, 4000, 1) > 0).mean() <= 0.05


def test_errors_of_one_against_three_percent_are_caught() -> None:
    first = alarms(lambda _: 0.5, lambda _: 0.01, lambda _: 0.03, 3300, 2)
    assert (first > 0).mean() >= 0.95


def test_an_arm_that_only_fails_is_caught_within_twenty_of_its_replies() -> None:
    for share in (0.05, 0.5):
        flips, replies = Flips(math.log(8 / 0.05)), 0
        while not alarm(flips.log_e, 0.05, 8):  # shared among eight guardrails
            flips.add(True, share)
            replies += 1
        assert replies <= 20


def test_means_cover_and_catch() -> None:
    random, same, slower = np.random.default_rng(3), Means(0.1), Means(0.1)
    missed = np.zeros(RUNS, bool)
    false, caught = np.zeros(RUNS, bool), np.zeros(RUNS, bool)
    for _ in range(3000):
        arm, noise = random.random(RUNS) < 0.5, random.normal(size=RUNS)
        same.add(arm, noise)
        slower.add(arm, noise + np.where(arm, math.log(1.2), 0))
        low, high = slower.interval(0.05)
        missed |= (low > math.log(1.2)) | (high < math.log(1.2))
        false |= alarm(same.log_e(), 0.05, 1)
        caught |= alarm(slower.log_e(), 0.05, 1)
    assert missed.mean() <= 0.07
    assert false.mean() <= 0.06
    assert caught.mean() >= 0.95


def test_means_say_nothing_before_there_are_units() -> None:
    means = Means(0.1)
    for number in range(49):
        means.add(True, 100.0 + number)
        means.add(False, float(number))
    assert float(means.log_e()) == 0.0
    assert means.interval(0.05) == (-math.inf, math.inf)


@pytest.mark.parametrize("rates", [(0.0, 0.01), (0.0, 0.03), (0.01, 0.02)], ids=str)
def test_a_candidate_worse_by_the_margin_is_seldom_proven_within_it(rates: tuple[float, float]) -> None:
    """Also where stable never fails: the first units without an error prove nothing."""
    random, means = np.random.default_rng(6), Means(rates[1] - rates[0], shares=True)
    proven = np.zeros(RUNS, bool)
    for _ in range(1500):
        for arm in (False, True):
            means.add(np.full(RUNS, arm), random.random(RUNS) < rates[arm])
        proven |= alarm(means.log_e(rates[1] - rates[0], smaller=True), 0.05, 1)
    assert proven.mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / RUNS)


def test_arms_that_never_fail_are_proven_alike() -> None:
    means = Means(0.01, shares=True)
    for count in range(2000):
        means.add(count % 2 == 0, 0.0)
        if alarm(means.log_e(0.01, smaller=True), 0.05, 1):
            break
    assert 600 < count < 1200  # a rate of 1% would show nothing in 300 replies of one arm with probability 5%


def test_sample_ratio() -> None:
    random, right, wrong = np.random.default_rng(4), SampleRatio(0.5), SampleRatio(0.5)
    false, caught = np.zeros(RUNS, bool), np.zeros(RUNS, bool)
    for _ in range(800):  # looked at every 25 units
        for ratio, share in ((right, 0.5), (wrong, 0.52)):
            inside = random.binomial(25, share, RUNS)
            ratio.candidate, ratio.stable = ratio.candidate + inside, ratio.stable + 25 - inside
        false |= alarm(right.log_e, 0.01, 1)
        caught |= alarm(wrong.log_e, 0.01, 1)
    assert false.mean() <= 0.02
    assert caught.mean() >= 0.95


def test_a_quantile_lies_in_its_interval_at_all_times() -> None:
    """Lognormal seconds, looked at after every one of 3,000 replies: of the 5% at most that may be outside once, and not for want
    of width. The truth is met in bins, whose edges are outwards."""
    random, runs, outside = np.random.default_rng(11), 60, {0.5: 0, 0.95: 0, 0.99: 0}
    true = {0.5: 0.0, 0.95: 1.6448536, 0.99: 2.3263479}
    for _ in range(runs):
        spread, gone = Quantiles(), set()
        for number, value in enumerate(random.standard_normal(3000)):
            spread.add(float(value))
            if number % 25 == 0 or number < 100:
                for p, truth in true.items():
                    _, low, high = spread.at(p, 0.05)
                    gone |= set() if low <= truth <= high else {p}
        for p in gone:
            outside[p] += 1
    assert max(outside.values()) <= 0.05 * runs
    middle, low, high = spread.at(0.5, 0.05)
    assert abs(middle) < 0.1 and -0.35 < low < 0 < high < 0.35
    assert (
        spread.at(0.99, 0.05)[2] == math.inf
    )  # 3,000 replies say from above nothing of the slowest hundredth


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=200), st.floats(0.01, 0.99))
def test_a_quantile_is_numpys_to_a_bin(values: list[float], p: float) -> None:
    spread = Quantiles()
    for value in values:
        spread.add(value)
    wanted = float(np.quantile(values, p, method="inverted_cdf"))
    found, low, high = spread.at(p, 0.05)
    assert abs(found - wanted) <= 0.011 and low <= found <= high
