"""Assignment is a pure function: sticky, monotone, independent between experiments, of the shares that were set."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivium.rollout.assign import STABLE, Split, arm_of, beside_stable, fault, position

UNITS = [f"unit-{n}" for n in range(20_000)]
shares = st.floats(0, 1)


@given(st.text(), st.text(), shares, shares)
def test_raising_a_share_moves_nobody_out(salt: str, unit: str, one: float, other: float) -> None:
    low, high = sorted((one, other))
    if arm_of(salt, unit, {"candidate": low}) == "candidate":
        assert arm_of(salt, unit, {"candidate": high}) == "candidate"


@st.composite
def ramps(draw: st.DrawFn) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """Weights of three arms, others that are nowhere smaller, and the widest that they will ever be."""
    cuts = sorted(draw(st.lists(shares, min_size=3, max_size=3)))
    slots = dict(zip("abc", (cuts[0], cuts[1] - cuts[0], cuts[2] - cuts[1]), strict=True))
    high = {arm: slot * draw(shares) for arm, slot in slots.items()}
    return {arm: weight * draw(shares) for arm, weight in high.items()}, high, slots


@given(st.text(), st.text(), ramps())
def test_of_several_arms_none_loses_anybody_to_another(salt: str, unit: str, ramp: tuple) -> None:
    low, high, slots = ramp
    before, after = (arm_of(salt, unit, weights, slots=slots) for weights in (low, high))
    assert before in (STABLE, after)
    assert arm_of(salt, unit, {arm: float(arm == "b") for arm in "abc"}, slots=slots) == "b"


@given(st.text(), ramps(), st.sampled_from("abc"))
def test_who_is_out_is_answered_by_stable_and_moves_nobody_else(unit: str, ramp: tuple, gone: str) -> None:
    _, high, slots = ramp
    split = Split(high)
    arm, instead_of = split.arm("salt", unit, slots)
    assert instead_of is None
    assert split.without({gone}).arm("salt", unit, slots) == ((STABLE, gone) if arm == gone else (arm, None))
    assert split.without("abc").share == 0


def test_several_arms_get_their_shares_of_their_slots_and_beside_stable() -> None:
    weights, slots = {"a": 0.1, "b": 0.2}, {"a": 0.3, "b": 0.4}
    arms = [arm_of("salt", unit, weights, slots=slots) for unit in UNITS]
    for arm, weight in weights.items():
        assert abs(arms.count(arm) / len(UNITS) - weight) < 4 * math.sqrt(weight * (1 - weight) / len(UNITS))
        both = [each for each in arms if each in (arm, STABLE)]
        share = beside_stable(weights, arm)
        assert abs(both.count(arm) / len(both) - share) < 4 * math.sqrt(share * (1 - share) / len(both))
    assert beside_stable({"a": 0.1, "b": 0.2}, "a") == pytest.approx(1 / 8)
    assert beside_stable({"a": 0.25}, "a") == 0.25 and beside_stable({"a": 1.0, "b": 0.0}, "b") == 0


@given(st.text(), st.text(), st.text())
def test_weight_zero_takes_nobody_and_weight_one_everybody(salt: str, unit: str, arm: str) -> None:
    assert arm_of(salt, unit, {"a": 0.0}) == STABLE
    assert arm_of(salt, unit, {"a": 1.0}) == "a"


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
    assert fault(weights) is not None
    assert fault({"a": 0.7, "b": 0.3}) is None
