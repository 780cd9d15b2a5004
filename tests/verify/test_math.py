"""Answers by algebra: equal forms are, words and units are not multiplied out, and no formula holds the run up."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trivium.errors import TriviumError
from trivium.recipe.verifiers import without_settings
from trivium.verify import function, math, named


@pytest.fixture(scope="module")
def verifier() -> Iterator[math.MathVerifier]:
    with math.MathVerifier(seconds=3.0) as made:
        yield made


def score(verifier: math.MathVerifier, wanted: str, answer: str) -> float:
    return verifier({"meta": {"answer": wanted}}, f"So it is. Answer: {answer}")


@pytest.mark.parametrize(
    ("wanted", "answer"),
    [("1/2", "0.5"), ("0.5", r"$\frac{1}{2}$"), (r"\frac{3}{4}", "3/4"), ("x^2+2x+1", "(x+1)^2"), (r"\sqrt{8}", r"2\sqrt{2}"),
     (r"\{1,2\}", r"\{2,1\}"), ("2^{10}", "1024"), ("5", "x=5"), ("12 km", "12"), ("no", "No."), (r"\sin^2(x)+\cos^2(x)", "1"),
     (r"\frac{\pi}{2}", r"0.5\pi")],
)  # fmt: skip
def test_equal_forms_are_right(verifier, wanted, answer):
    assert score(verifier, wanted, answer) == 1


@pytest.mark.parametrize(
    ("wanted", "answer"),
    [("1/2", "0.25"), ("no", "on"), ("cat", "act"), ("12 km", "12 m"), ("12 m", "12 s"), ("12", "12 million"), ("42", "4,2"),
     ("12", "12x"), ("156", "12 13"), (r"\text{no}", "on"), ("x+1", "x-1"), ("[0,1)", "(0,1]"),
     ("5", "4 or 5"), ("5", r"\{4,5\}"), ("5", r"\frac{")],
)  # fmt: skip
def test_other_answers_are_wrong(verifier, wanted, answer):
    assert score(verifier, wanted, answer) == 0


@settings(max_examples=8, deadline=None)
@given(st.fractions(-50, 50, max_denominator=40), st.fractions(-50, 50, max_denominator=40))
def test_fractions_are_equal_where_python_says_so(verifier, first: Fraction, second: Fraction):
    written = rf"{'-' * (first < 0)}\frac{{{abs(first.numerator * 3)}}}{{{first.denominator * 3}}}"
    assert score(verifier, str(first), written) == 1
    assert score(verifier, str(second), written) == (first == second)


@settings(max_examples=8, deadline=None)
@given(st.text(alphabet="0123456789.,-+^*/$ xy()[]{}\\frac=", max_size=30))
def test_no_reply_breaks_it(verifier, answer):
    assert score(verifier, "1/3", answer) in (0, 1)


def test_a_formula_that_never_ends_costs_its_seconds_and_no_more(monkeypatch):
    monkeypatch.setattr(function, "HOPELESS", 2)
    with math.MathVerifier(seconds=0.2) as verifier:
        for _ in range(3):  # more than a function of a user's may now fail at first
            assert score(verifier, "7", r"(10^{9})!") == 0
        assert verifier.failures.total() == 3
        verifier.seconds = 3.0
        assert score(verifier, "2^{3}", "8") == 1


def test_it_needs_no_setting_and_says_what_to_install(monkeypatch):
    assert "math" in without_settings()
    assert set(math.identity()) == {"math-verify", "sympy"}
    monkeypatch.setattr(math, "version", lambda name: math_missing(name))
    with pytest.raises(TriviumError, match="math-verify is not installed"):
        named("math")


def math_missing(name: str) -> str:
    raise ModuleNotFoundError(f"No module named {name!r}", name=name)
