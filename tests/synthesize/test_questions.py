"""Questions about a text: which sentences stand alone, which questions the text bears out, and what is held out."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_synthesize import SERVED, config, run, served  # noqa: F401 - a fixture

from trivium.corpus.records import key_of
from trivium.errors import DataError, RecipeError
from trivium.recipe.load import load
from trivium.synthesize.questions import Text, _split
from trivium.synthesize.statements import Statement, statements

PAGE = """---
title: Stoves
---
# The stove

The *stove* burns wood that has been dry for [two years](https://example.org/wood). It is lit from above.
- A damper that is shut too early fills the room with smoke, e.g. after a short fire.
- Ash is kept in a tin bucket until
  the last ember has died.

| a | table of many words that would be a sentence if it were no table at all. |

```
The code of the stove is written in a language that nobody reads any more.
```

This sentence points at the one before it and so it is left out.
Why is a question never a statement of anything that is worth to be asked?
Measured 12 times 13 and 14 and 15 in 16 of 17 rooms with 18 stoves.

Sweeping
--------
The sweep comes twice a year, and he looks at the chimney first.
"""
SAID = [
    "The stove burns wood that has been dry for two years.",
    "A damper that is shut too early fills the room with smoke, e.g. after a short fire.",
    "Ash is kept in a tin bucket until the last ember has died.",
    "The sweep comes twice a year, and he looks at the chimney first.",
]


def test_statements_are_the_sentences_that_can_be_read_alone():
    assert statements(PAGE) == [Statement(s, "Sweeping" if s is SAID[3] else "The stove") for s in SAID]


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet=st.sampled_from('aB. \n#`|-*([])"_<>~1=!?é'), max_size=200))
def test_any_text_gives_whole_sentences_each_once(text):
    found = statements(text)
    assert len({one.text for one in found}) == len(found)
    assert all(8 <= len(one.text.split()) <= 40 and one.text.endswith((".", "!")) for one in found)
    if not any(mark in text for mark in ("```", "~~~", "<!--")) and not text.startswith("---"):
        assert statements(f"{text}\n\n{text}") == found


@pytest.mark.parametrize(
    ("question", "place", "why"),
    [
        ("What does the stove burn?", 0, ""),
        ("What happens if a damper is shut too early?", 1, ""),
        ("Where is ash kept?", 2, ""),
        ("Why is ash kept in a tin bucket?", 2, ""),
        ("When does the sweep come?", 3, ""),
        ("What is a tin bucket?", 2, "beside_the_subject"),
        ("What does the stove eat?", 0, "not_in_the_text"),
        ("Why does wood burn?", 0, "mixed_up"),
        ("Why does the stove burn wood that has been dry for years?", 0, "gives_the_answer"),
        ("What does it burn?", 0, "no_question"),
        ("Tell me about the stove.", 0, "no_question"),
        ("What is the stove, and what is the stove?", 0, "no_question"),
        ("Which one of these is the stove?", 0, "no_question"),
        ("What is it?", 0, "no_question"),
    ],
)
def test_the_text_says_which_questions_it_answers(question, place, why):
    assert Text([Statement(text, "") for text in SAID]).problem(question, place) == why


def test_what_two_sentences_answer_is_no_question_about_one():
    text = Text([Statement(SAID[0], ""), Statement("The stove burns coal in a hard winter too.", "")])
    assert text.problem("What does the stove burn?", 0) == "answered_elsewhere"


@given(st.lists(st.text(min_size=1, max_size=9), max_size=6, unique=True), st.floats(0, 1))
def test_no_statement_is_held_out_whole(questions, share):
    rows = [{"key": key_of(question)} for question in questions]
    made = list(_split(rows, share))
    assert [row for _, row in made] == rows
    assert not rows or "train" in {split for split, _ in made}


ASKED = {
    SAID[0]: ["What does the stove burn?", "Why does the stove burn wood?", "What does the stove eat?"],
    SAID[1]: ["What happens if a damper is shut too early?", "What does a damper that is shut too early do?"],
    SAID[2]: ["Where is ash kept?", "Where is the ash kept?", "Why is ash kept in a tin bucket?"],
    SAID[3]: ["No question at all"],
}


def documents(tmp_path: Path, write_lines) -> None:
    known = {"key": "page", "source": "text", "license": "MIT", "origin": "stove.md"}
    row = {**known, "text": PAGE, "meta": json.dumps({"title": "Stoves"})}
    write_lines(tmp_path / "data" / "train.jsonl", [row])
    write_lines(tmp_path / "data" / "heldout.jsonl", [])


def test_rows_answer_in_the_words_of_the_text(tmp_path, write_lines, served):  # noqa: F811
    documents(tmp_path, write_lines)
    turns: Counter[str] = Counter()

    def answer(messages, seed):
        said = messages[-1]["content"]
        turns[said] += 1
        assert messages[0]["role"] == "system" and messages[-2]["content"].endswith("?")
        choices = ASKED[said]
        return choices[turns[said] % len(choices)]

    served(answer)
    settings = {
        "method": "questions",
        "teacher": SERVED,
        "samples": 6,
        "keep": 2,
        "heldout": 0.5,
        "prompts": 9,
        "diversity": 0.85,
    }
    found = run(tmp_path, config(**settings))
    rows = found["train"] + found["heldout"]
    for row in rows:
        question, reply = (turn["content"] for turn in row["messages"])
        assert question in ASKED[reply] and "eat" not in question and row["meta"]["answer"] == reply
        assert row["meta"]["title"] == "Stoves" and row["origin"] == "stove.md" and row["license"] == "MIT"
        assert row["meta"]["cluster"] in {one["meta"]["cluster"] for one in found["train"]}
    per = Counter(row["messages"][-1]["content"] for row in rows)
    assert per == {SAID[0]: 2, SAID[1]: 2, SAID[2]: 2}
    made = found["account"]["synthesis"]
    assert made["statements"] == 4 and made["statements_without_any"] == 1
    assert made["not_in_the_text"] == 1 and made["too_similar"] == 1
    assert made["asked"] == 24
    begun = run(tmp_path, config(**settings, begun=2), "begun")
    more = [row for row in begun["train"] if row["messages"][0]["content"].startswith("Complete")]
    assert begun["heldout"] == found["heldout"] and len(more) == 6
    assert all(row in begun["train"] for row in found["train"])
    for row in more:
        beginning, whole = row["messages"][0]["content"], row["messages"][1]["content"]
        assert whole.startswith(beginning.removeprefix("Complete the sentence: ").removesuffix(" ..."))
    assert {row["messages"][1]["content"] for row in more} == set(SAID[:3])


def test_a_teacher_that_asks_nothing_is_an_error_that_says_why(tmp_path, write_lines, served):  # noqa: F811
    documents(tmp_path, write_lines)
    served(lambda messages, seed: "I am a helpful assistant.")
    with pytest.raises(DataError, match="4 no_question"):
        run(tmp_path, config(method="questions", teacher=SERVED))


def test_questions_are_asked_about_documents_and_nothing_else(tmp_path):
    recipe = tmp_path / "r.yaml"
    stages = """
name: r
stages:
  text: {{kind: data, format: {form}, sources: [{{kind: python-docs}}]}}
  asked: {{kind: synthesize, method: {method}, data: text, teacher: {{kind: openai, url: "http://x/v1", model: m}}{more}}}
"""
    for form, method, more, said in (
        ("conversations", "questions", "", "documents"),
        ("documents", "cot", ", verifier: {kind: grounded}", "conversations or preferences"),
        ("documents", "questions", ", verifier: {kind: exact}", "verifier"),
        ("documents", "questions", ", temperature: 0", "temperature 0"),
    ):
        recipe.write_text(stages.format(form=form, method=method, more=more))
        with pytest.raises(RecipeError, match=said):
            load(recipe)
    recipe.write_text(stages.format(form="documents", method="questions", more=""))
    assert load(recipe).stages["asked"].format == "conversations"
