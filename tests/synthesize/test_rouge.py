"""ROUGE-L against its definition by brute force, and by hand."""

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trivium.synthesize.rouge import rouge_l, words

TEXT = st.lists(st.sampled_from("abc"), max_size=6)


@settings(max_examples=60)
@given(TEXT, TEXT)
def test_it_is_the_f1_of_the_longest_common_subsequence(one, other):
    def parts(text):
        return {
            tuple(text[i] for i in kept)
            for n in range(len(text) + 1)
            for kept in combinations(range(len(text)), n)
        }

    longest = max(map(len, parts(one) & parts(other)))
    expected = 0.0
    if longest:
        precision, recall = longest / len(one), longest / len(other)
        expected = 2 * precision * recall / (precision + recall)
    assert rouge_l(one, other) == pytest.approx(expected)


def test_by_hand():
    assert rouge_l(words("The cat sat."), words("the CAT sat")) == 1
    assert rouge_l(words("police killed the gunman"), words("police kill the gunman")) == pytest.approx(0.75)
