"""A law is found again in runs that follow it, and what it has not seen is predicted within its interval."""

from __future__ import annotations

import numpy as np
import pytest

from trivium.errors import DataError
from trivium.plan.fit import Point, fit
from trivium.plan.scaling import REPLICATION, Law

SMALL = Law("made up", floor=1.2, a=60.0, b=300.0, alpha=0.35, beta=0.4)


def ladder(law: Law, noise: float = 0.0) -> list[Point]:
    draws = np.random.default_rng(0)
    return [
        Point(size, tokens, law.loss(size, tokens) * (1 + noise * draws.standard_normal()))
        for size in (1e5, 3e5, 1e6)
        for tokens in (1e6, 3e6, 1e7)
    ]


@pytest.mark.parametrize("law", [SMALL, REPLICATION], ids=["small", "replication"])
def test_a_run_ten_times_larger_is_predicted(law: Law) -> None:
    found = fit(ladder(law))
    low, expected, high = found.predict(1e7, 1e8)
    assert low <= expected <= high
    assert expected == pytest.approx(law.loss(1e7, 1e8), rel=0.02)
    for point in ladder(law):
        assert found.law.loss(point.parameters, point.tokens) == pytest.approx(point.loss, rel=0.002)


def test_noise_widens_the_interval_and_stays_inside_it() -> None:
    sharp, blurred = (fit(ladder(SMALL, noise)).predict(3e6, 3e7) for noise in (0.0, 0.01))
    assert blurred[2] - blurred[0] > sharp[2] - sharp[0]
    assert blurred[0] * 0.97 <= SMALL.loss(3e6, 3e7) <= blurred[2] * 1.03


@pytest.mark.parametrize(
    ("points", "said"),
    [
        (ladder(SMALL)[:4], "do not tell five numbers"),
        (ladder(SMALL)[:3] * 2, "of 1 sizes"),
        ([*ladder(SMALL), Point(1e6, 1e6, float("nan"))], "no loss"),
    ],
)
def test_what_cannot_be_fitted_is_told(points: list[Point], said: str) -> None:
    with pytest.raises(DataError, match=said):
        fit(points)
