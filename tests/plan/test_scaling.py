"""Laws of the laws: the optimum is one, serving more makes models smaller, repetition is worth less than new text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivium.plan.scaling import CHINCHILLA, REPLICATION, Law, said, worth

LAWS = pytest.mark.parametrize("law", [CHINCHILLA, REPLICATION], ids=["chinchilla", "replication"])


@LAWS
@pytest.mark.parametrize("flops", [1e18, 1e21, 5.76e23])
def test_no_other_split_of_the_work_has_a_lower_loss(law: Law, flops: float) -> None:
    size, tokens = law.optimum(flops)
    assert 6 * size * tokens == pytest.approx(flops)
    for factor in (0.5, 0.9, 1.1, 2):
        assert law.loss(size * factor, tokens / factor) > law.loss(size, tokens)


def test_the_published_optima() -> None:
    """Hoffmann et al. trained 70B on 1.4T; the replication finds about 20 tokens a parameter there, and the grid of both laws
    at 1e21 FLOP is 2.2B on 75B and 2.8B on 60B."""
    size, tokens = REPLICATION.optimum(5.76e23)
    assert 15 < tokens / size < 25 and size == pytest.approx(70e9, rel=0.1)
    assert CHINCHILLA.optimum(1e21) == pytest.approx((2.21e9, 75.3e9), rel=0.01)
    assert REPLICATION.optimum(1e21) == pytest.approx((2.78e9, 60.0e9), rel=0.01)


@LAWS
def test_serving_more_wants_a_smaller_model_of_the_same_loss(law: Law) -> None:
    size, tokens = law.optimum(1e22)
    loss = law.loss(size, tokens)
    sizes = []
    for served in (0.0, 1e11, 1e12, 1e13):
        chosen, read = law.served(loss, served)
        assert law.loss(chosen, read) == pytest.approx(loss)
        sizes.append(chosen)
    assert sizes[0] == pytest.approx(size, rel=0.03)
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < sizes[0] / 1.5


@given(st.floats(1e6, 1e13), st.floats(0.1, 1000))
def test_repeated_tokens_are_worth_less_each_time(unique: float, epochs: float) -> None:
    value = worth(unique * epochs, unique)
    assert 0 < value <= unique * epochs * (1 + 1e-9)
    assert value <= worth(unique * (epochs + 1), unique) <= 17 * unique
    if epochs <= 1:
        assert value == unique * epochs


def test_four_epochs_are_nearly_new() -> None:
    """Muennighoff et al. 2023, abstract: up to four epochs the difference is negligible; about forty have given all there is."""
    assert worth(4e9, 1e9) > 0.9 * 4e9
    assert worth(100e9, 1e9) < 1.1 * worth(60e9, 1e9)


def test_what_is_said_of_a_choice() -> None:
    lines = said(7e9, 2e12, unique=5e11)
    assert any("4 epochs" in line for line in lines)
    assert sum("spent best on" in line for line in lines) == 2
    assert not any("epochs" in line for line in said(7e9, 2e12))
