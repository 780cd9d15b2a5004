"""Statistics of replies, worked out by hand."""

import pytest

from trivium.verify.replies import coherent, distinct, repetition


def test_repetition_is_the_share_of_runs_that_came_before():
    assert repetition("") == repetition("a b c") == repetition("a b c d e") == 0
    assert repetition("a b c d a b c d") == pytest.approx(1 / 5)
    assert repetition("A a a a a a") == pytest.approx(2 / 3)


def test_distinct_is_the_share_of_different_runs():
    assert distinct([]) == distinct(["a"]) == 0
    assert distinct(["a b", "a b"]) == 0.5
    assert distinct(["a b c", "c a"], 1) == pytest.approx(3 / 5)


def test_coherent():
    assert coherent("it is all right.")
    assert coherent("1. Open the settings of the browser. 2. Choose a page. 3. Open the settings of the page")
    assert not coherent("too short")
    assert not coherent("no no no no no")
    assert not coherent("I like to go to the sea with you. " * 2)
    assert not coherent(
        "A town has a gate, and the gate has a key. The key, the key, the key, the key, the key, the key, the key"
    )
