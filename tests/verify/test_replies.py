"""Statistics of replies, worked out by hand."""

import pytest

from trivium.verify.replies import Reply, coherent, distinct, repetition


def test_repetition_is_the_share_of_runs_that_came_before():
    assert repetition("") == repetition("a b c") == repetition("a b c d e") == 0
    assert repetition("a b c d a b c d") == pytest.approx(1 / 5)
    assert repetition("A a a a a a") == pytest.approx(2 / 3)


def test_distinct_is_the_share_of_different_runs():
    assert distinct([]) == distinct(["a"]) == 0
    assert distinct(["a b", "a b"]) == 0.5
    assert distinct(["a b c", "c a"], 1) == pytest.approx(3 / 5)


def test_coherent():
    assert coherent(Reply("it is all right."))
    assert not coherent(Reply("it is all right.", finished=False))
    assert not coherent(Reply("too short"))
    assert not coherent(Reply("no no no no no"))
