"""Verifiers that need nothing: the right answer is taken in every usual form, a wrong or empty one in none."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivium.demo import reasoning
from trivium.recipe.verifiers import without_settings
from trivium.verify import named
from trivium.verify.answers import final_answer, normalised


def record(reply: str, **meta: object) -> dict:
    return {
        "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": reply}],
        "meta": meta,
    }


@pytest.mark.parametrize(
    "reply",
    ["42", "Answer: 42", "so\nAnswer: 42.", "6 * 7\n#### 42", r"thus $\boxed{42}$",
     "answer: **42**", "Answer: 42.0", "Answer: 7\nAnswer: 42", "**Answer:** 42", "**Answer**: 42", "**Answer: 42**",
     "The answer is 42", "so the answer is: 42.", "The final answer is $42$. I hope it is correct.", r"\boxed{42}",
     "The answer is 42 because 6 times 7 is 42.", "Answer = 42", r"The answer is $\boxed{42}$.", r"$$\boxed{42.00}$$",
     "Answer: 42 apples", "#### 42 km", "Answer: $42", "Answer: 42%", "Answer: 42 km/h", r"\boxed{42\text{ cm}}",
     r"Answer: \(42\)", "\\boxed{7}, no: \\boxed{42}"],
)  # fmt: skip
def test_exact_takes_the_answer_in_every_form(reply):
    assert named("exact")(record("6 * 7 = 42. Answer: 42"), reply) == 1
    assert named("exact")(record("because", answer=42), reply) == 1


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "Answer:",
        "Answer: 43",
        "Answer: 42\nAnswer: 7",
        "4 2",
        "420",
        "-42",
        "The answer is 43",
        "**Answer:** 24",
        "Answer: 42 million",
        "Answer: 42 x",
        "Answer: 4,2",
        "Answer: 42 or 43",
        "Answer: -42 apples",
        r"\boxed{42}, no: \boxed{7}",
        "Answer: 42 thousand",
        "Answer: 4 200",
    ],
)
def test_exact_refuses_everything_else(reply):
    assert named("exact")(record("Answer: 42"), reply) == 0


def test_numbers_are_compared_as_numbers_and_texts_as_texts():
    assert normalised("1,000.50") == normalised("$1000.5")
    assert normalised("-0") == normalised("0")
    assert normalised(" The  Cat. ") == "the cat"
    assert normalised("1.2.3") == "1.2.3"
    assert normalised("100") == "100"  # no exponent
    assert final_answer("no marks at all ") == "no marks at all"


def test_thousands_and_units_are_read_as_they_are_written():
    for written in (
        "1,200",
        "1200",
        "1 200",
        "1\u202f200",
        r"1{,}200",
        "$1,200.00",
        "1,200 euros",
        r"\$1{,}200",
    ):
        assert named("exact")(record("", answer=1200), f"Answer: {written}") == 1, written
    assert named("exact")(record("", answer="12 km"), "Answer: 12") == 1
    assert named("exact")(record("", answer="12 km"), "Answer: 12 m") == 0
    assert named("exact")(record("", answer=r"\frac{1}{2}"), r"so $\boxed{\frac{1}{2}}$") == 1


def test_extraction_and_exactness_read_the_same_marks():
    [item] = islice(reasoning.records("conversations", ["chain_sum"], 3), 1)
    right = item["messages"][1]["content"].rpartition("Answer: ")[2]
    for written in ("Answer: {}", "**Answer:** {}", "The answer is {}.", "#### {}", "\\boxed{{{}}}"):
        assert named("reasoning")(item, written.format(right)) == 1, written
        assert named("exact")(item, written.format(right)) == 1, written


def test_long_numbers_are_told_apart():
    assert normalised("1" + "0" * 40 + "1") != normalised("1" + "0" * 40 + "2")
    assert normalised("0." + "0" * 40 + "10") == normalised("0." + "0" * 40 + "1")
    assert normalised("9" * 20_000) == "9" * 20_000


RECORDS = list(islice(reasoning.records("conversations", list(reasoning.TASKS), 2), 12))
SAID = st.one_of(st.text(), st.text(alphabet="0123456789.,-$ Answer:#{}\\boxed"), st.just("Answer: " * 999))


@given(SAID, st.sampled_from(RECORDS))
def test_no_reply_breaks_a_verifier(reply, asked):
    for text in (reply, f"Answer: {reply}", f"#### {reply}", f"\\boxed{{{reply}}}"):
        for name in without_settings().keys() - {"math"}:  # a process: tests/verify/test_math.py
            score = named(name)(asked, text)
            assert 0 <= score <= 1 if name == "grounded" else score in (0, 1)


def test_a_record_without_an_answer_is_never_met():
    assert named("exact")({"prompt": [], "meta": {}}, "") == 0
    assert named("reasoning")({"prompt": [], "meta": {}}, "Answer: 1") == 0


def test_reasoning_takes_worked_solutions_and_not_those_of_other_tasks():
    items = list(islice(reasoning.records("conversations", list(reasoning.TASKS), 1), 30))
    replies = [item["messages"][1]["content"] for item in items]
    assert all(named("reasoning")(item, reply) == 1 for item, reply in zip(items, replies, strict=True))
    moved = replies[1:] + replies[:1]
    assert sum(named("reasoning")(item, reply) for item, reply in zip(items, moved, strict=True)) == 0
