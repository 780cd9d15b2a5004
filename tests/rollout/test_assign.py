"""Assignment is a pure function: sticky, monotone, independent between experiments, of the shares that were set."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivium.errors import RecipeError
from trivium.rollout.assign import STABLE, arm_of, check_weights, position

UNITS = [f"unit-{n}" for n in range(20_000)]
shares = st.floats(0, 1)


@given(st.text(), st.text(), shares, shares)
def test_raising_a_share_moves_nobody_out(salt: str, unit: str, one: float, other: float) -> None:
    low, high = sorted((one, other))
    if arm_of(salt, unit, {"candidate": low}) == "candidate":
        assert arm_of(salt, unit, {"candidate": high}) == "candidate"


@given(st.text(), st.text(), st.text())
def test_weight_zero_takes_nobody_and_weight_one_everybody(salt: str, unit: str, arm: str) -> None:
    assert arm_of(salt, unit, {"a": 0.0}) == STABLE
    assert arm_of(salt, unit, {"a": 1.0}) == "a"
    assert arm_of(salt, unit, {"a": 1.0}, excluded={unit}) == STABLE


@pytest.mark.parametrize("weights", [{"a": 0.05}, {"a": 0.2, "b": 0.3}])
def test_arms_get_their_shares(weights: dict[str, float]) -> None:
    arms = [arm_of("salt", unit, weights) for unit in UNITS]
    for arm, weight in weights.items():
        error = 4 * math.sqrt(weight * (1 - weight) / len(UNITS))
        assert abs(arms.count(arm) / len(UNITS) - weight) < error


def test_experiments_are_independent() -> None:
    """Of the units in one experiment's arm, the other's takes its own share."""
    inside = [unit for unit in UNITS if arm_of("first", unit, {"a": 0.5}) == "a"]
    both = sum(arm_of("second", unit, {"b": 0.3}) == "b" for unit in inside)
    assert abs(both / len(inside) - 0.3) < 4 * math.sqrt(0.21 / len(inside))


def test_positions_are_uniform() -> None:
    from scipy.stats import kstest

    assert kstest([position("salt", unit) for unit in UNITS], "uniform").pvalue > 1e-4


@pytest.mark.parametrize(
    "weights", [{"a": 0.7, "b": 0.4}, {"a": -0.1}, {"a": float("nan")}, {STABLE: 0.5}, {"a": 1.5}]
)
def test_weights_that_are_no_shares_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(RecipeError):
        check_weights(weights)
