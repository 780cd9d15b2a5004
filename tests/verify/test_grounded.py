"""What a reply shares with an answer: nothing but content counts, and what denies is content."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivium.verify import named
from trivium.verify.grounded import content, grounded, overlap

WORDS = st.lists(st.sampled_from(["disk", "full", "12", "not", "a.b", "row"]), max_size=8)


@given(WORDS, WORDS)
def test_overlap_is_symmetric_and_1_only_for_the_same_words(one, other):
    found = overlap(one, other)
    assert 0 <= found <= 1 and found == overlap(other, one)
    assert (found == 1) == (bool(one) and sorted(one) == sorted(other))


@given(WORDS, WORDS, WORDS)
def test_more_that_is_not_in_the_answer_never_helps(said, wanted, more):
    beside = [f"x{word}" for word in more]
    assert overlap([*said, *beside], wanted) <= overlap(said, wanted)


RECORD = {"meta": {"answer": "A full disk is a warning, and the last good checkpoint stays."}}


@pytest.mark.parametrize(
    ("reply", "least", "most"),
    [
        ("A full disk is a warning, and the last good checkpoint stays.", 1, 1),
        ("If the disk is full there is a warning; the last good checkpoint will stay.", 0.8, 1),
        ("You get warnings when a disk is full.", 0.5, 0.8),
        ("A full disk is an error that ends the run and removes what is there.", 0, 0.45),
        ("SmolLM is a helpful assistant.", 0, 0),
        ("", 0, 0),
    ],
)
def test_what_a_person_would_say_of_these(reply, least, most):
    assert least <= grounded(RECORD, reply) <= most
    assert named("grounded")(RECORD, reply) == grounded(RECORD, reply)


def test_what_denies_and_numbers_are_content():
    assert content("It is not the 12 rows of `a.b`") == ["not", "12", "row", "a.b"]
    answer = {"messages": [{"role": "assistant", "content": "Rows are not cut."}]}
    assert grounded(answer, "Rows are cut.") < 1 == grounded(answer, "The row is not cut")
    assert grounded({"messages": [{"role": "user", "content": "Rows?"}]}, "Rows?") == 0
