"""Every kind of instruction on replies that keep it and replies that do not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivium.evaluate.asked import Answer
from trivium.evaluate.suites import instructions as suite
from trivium.recipe.suites import Instructions
from trivium.verify.instructions import KINDS, Instruction, kept
from trivium.verify.replies import Reply

CASES: dict[str, tuple[dict, list[str], list[str]]] = {
    "words_at_least": ({"count": 3}, ["one two three", "a, b - c d"], ["one two", "one - two"]),
    "words_at_most": ({"count": 3}, ["one two three"], ["one two three four"]),
    "sentences_at_least": ({"count": 2}, ["It is. Is it?", 'He said "no." And went'], ["It is 3.5 long.", "Well..."]),
    "sentences_at_most": ({"count": 1}, ["It is 3.5 long."], ["It is. It was."]),
    "paragraphs": ({"count": 2}, ["one\n***\ntwo"], ["one\n\ntwo", "one\n***\n", "a\n***\nb\n***\nc", "a *** b"]),
    "first_word": (
        {"count": 2, "place": 2, "word": "later"},
        ["We sat.\n\nLater, we ate."],
        ["Later we sat.\n\nWe ate.", "Later we sat.", "a\n\nlater\n\nb", "a\n\n..."],
    ),
    "keywords": ({"words": ["red", "old book"]}, ["An OLD BOOK, red."], ["an old book, reddish", "red"]),
    "keyword_at_least": ({"word": "and", "count": 2}, ["you and me and them"], ["sand and hand"]),
    "keyword_at_most": ({"word": "the", "count": 1}, ["The other one"], ["the one and The other"]),
    "forbidden": ({"words": ["it", "be"]}, ["this sits best"], ["This. It.", "to be"]),
    "letter": ({"letter": "e", "count": 3}, ["Eleven e"], ["even"]),
    "placeholders": ({"count": 2}, ["Dear [name], at [time of day]"], ["Dear [name]", "[] [ ]", "[a\nb] [c]"]),
    "postscript": ({}, ["Yours\nP.S. Write soon", "x\nP. S. y"], ["Yours", "See P.S. below", "P.S."]),
    "bullets": ({"count": 2}, ["* a\n- b", "These:\n  - a\n  - b"], ["* a", "*a\n-b", "- a\n- b\n- c"]),
    "numbered": ({"count": 2}, ["1. a\n2. b", "1) a\n2) b"], ["1. a", "1. a\n3. b", "2. a\n1. b", "1.a\n2.b"]),
    "one_of": ({"options": ["Yes.", "No."]}, ["Yes.", " No.\n"], ["Yes. I think", "yes.", "Yes. No."]),
    "highlights": ({"count": 2}, ["*one* and *two parts*", "**one** *two*"], ["**one**", "* a\n* b", "2 * 3 * 4"]),
    "sections": ({"count": 2}, ["Section 1\na\nSection 2\nb", "# Section 1\n*Section 2*"], ["Section 1", "Section 2\nSection 1"]),
    "json": ({}, ['{"a": [1]}', '```json\n{"a": 1}\n```', "[1, 2]"], ["{a: 1}", "3", 'Here: {"a": 1}', '{"a": NaN}', "[" * 9999]),
    "title": ({}, ["<<The Sea>>\nIt is blue."], ["The Sea", "<<>>", "<< >>", "<The Sea>"]),
    "code": ({}, ["So:\n```python\nx = 1\n```\nDone."], ["x = 1", "```x = 1```", "```\nx\n```\n```\ny\n```", "```\nx = 1"]),
    "lines": ({"count": 2}, ["a\nb", "a\n\nb\n"], ["a", "a\nb\nc"]),
    "two_responses": ({}, ["one\n******\ntwo"], ["one two", "one ****** one", "one ******", "a ****** b ****** c"]),
    "repeat": ({"request": "Tell me."}, ["Tell me. It is late.", "tell me.\nYes"], ["It is late.", "Tell me."]),
    "begins": ({"phrase": "To begin"}, ["To begin with"], ["to begin", "So, To begin"]),
    "ends": ({"phrase": "That is all."}, ["Yes. That is all.\n"], ["That is all. Yes.", "that is all."]),
    "quoted": ({}, ['"It is."', "“It is.”"], ["It is.", '"It" is.', '"', '""']),
    "capitals_at_least": ({"count": 2}, ["It is SO VERY cold"], ["I SAY", "So Very"]),
    "upper": ({}, ["IT IS 3."], ["IT is", "3."]),
    "lower": ({}, ["it is 3."], ["It is", "3."]),
    "no_commas": ({}, ["one and two"], ["one, two"]),
    "no_digits": ({}, ["three"], ["3"]),
    "question": ({}, ["Is it? \n"], ["Is it? Yes."]),
}  # fmt: skip


def test_every_kind_has_its_cases_and_there_are_25_at_least() -> None:
    assert set(CASES) == set(KINDS) and len(KINDS) >= 25


@pytest.mark.parametrize("kind", CASES)
def test_what_keeps_an_instruction_and_what_does_not(kind: str) -> None:
    args, right, wrong = CASES[kind]
    rule = Instruction(kind, args)
    assert [reply for reply in right if kept(reply, [rule]) != [True]] == []
    assert [reply for reply in wrong if kept(reply, [rule]) != [False]] == []
    assert kept(" \n", [rule]) == [False]
    assert all(str(value) in rule.text for value in args.values() if not isinstance(value, list))
    assert all(word in rule.text for value in args.values() if isinstance(value, list) for word in value)


@given(st.text(alphabet=st.sampled_from('aB3.,?!*-[]<>`"“ \n{}:P.S'), max_size=80))
def test_any_text_gets_a_plain_answer(text: str) -> None:
    found = kept(text, [Instruction(kind, args) for kind, (args, _, _) in CASES.items()])
    assert all(type(one) is bool for one in found)


@given(st.text(max_size=60))
def test_a_limit_from_below_and_the_one_from_above_part_all_replies(text: str) -> None:
    for unit in ("words", "sentences"):
        for count in (1, 2, 5):
            low, high = (
                Instruction(f"{unit}_at_least", {"count": count + 1}),
                Instruction(f"{unit}_at_most", {"count": count}),
            )
            assert not text.strip() or sum(kept(text, [low, high])) == 1  # fmt: skip


def test_the_prompts_have_every_kind_say_what_they_ask_and_are_different() -> None:
    every = list(suite.prompts())
    assert len({item.id for item in every}) == len(every) >= 100
    assert {kind for item in every for kind, _ in item.record["instructions"]} == set(KINDS)
    for item in every:
        for kind, args in item.record["instructions"]:
            assert Instruction(kind, args).text in item.messages[0]["content"]
    drawn = suite.items(Instructions(kind="instructions", items=len({item.cluster for item in every})), None)
    assert len({item.cluster for item in drawn}) == len(drawn)  # each combination once before any twice


def test_a_prompt_is_followed_whole_and_instructions_are_counted() -> None:
    item = next(item for item in suite.prompts() if item.cluster == "lower+no_digits+question")

    def scores(text: str) -> list[tuple[float | None, float]]:
        return [(v.score, v.weight) for v in suite.judge(item, Answer(Reply(text)))]

    assert scores("is it so?") == [(1.0, 1.0), (3.0, 3.0)]
    assert scores("is it 3?") == [(0.0, 1.0), (2.0, 3.0)]
    assert scores("It Is 3.") == [(0.0, 1.0), (0.0, 3.0)]
