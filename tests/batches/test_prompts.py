"""What a record asks: one function for rollouts, suites, samples, statistics, judges and synthesis."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivium.batches.prompts import Prompts
from trivium.corpus.records import prompt_of
from trivium.corpus.statistics import statistics
from trivium.errors import DataError
from trivium.synthesize.build import _prompts
from trivium.verify import exact
from trivium.verify.judge import request_of

OPEN = [
    {"role": "user", "content": "What is 6 plus one?"},
    {"role": "assistant", "content": "Answer: 7"},
    {"role": "user", "content": "And 6 plus two?"},
]
ANSWERED = [*OPEN, {"role": "assistant", "content": "Answer: 8"}]
TURNS = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant"]), "content": st.sampled_from("abc")}
    )
)


def record(turns: list[dict[str, str]], **more: Any) -> dict[str, Any]:
    return {"key": "k", "source": "jsonl", "messages": turns, "meta": {}, **more}


@given(TURNS, st.sampled_from(["messages", "prompt"]))
def test_only_the_assistants_last_turns_are_the_answer(turns, name):
    asked = prompt_of({name: turns})
    assert turns[: len(asked)] == asked
    assert all(turn["role"] == "assistant" for turn in turns[len(asked) :])
    assert not asked or asked[-1]["role"] != "assistant"


@pytest.mark.parametrize("turns", [OPEN, ANSWERED])
def test_rollouts_ask_the_last_question_and_keep_its_answer_to_themselves(chat, turns):
    [ids] = Prompts.build([record(turns)], chat, 256, 8).ids
    shown = chat.tokenizer.decode(ids, skip_special_tokens=False)
    assert shown == chat.tokenizer.decode(chat.prompt(OPEN), skip_special_tokens=False)
    assert "two?" in shown and "Answer: 8" not in shown


@pytest.mark.parametrize("turns", [OPEN, ANSWERED])
def test_all_who_ask_ask_the_same(turns, tmp_path, write_lines):
    made = record(turns)
    write_lines(tmp_path / "train.jsonl", [made])
    characters = sum(len(turn["content"]) for turn in OPEN)
    assert statistics([made])["prompt_characters"]["max"] == characters
    assert request_of(made).endswith("user: And 6 plus two?")
    assert [asked["prompt"] for asked in _prompts(tmp_path, "train", print)] == [OPEN]


def test_an_earlier_answer_is_not_the_answer_to_the_last_question():
    assert exact(record(ANSWERED), "8") == 1
    assert exact(record(OPEN), "7") == 0
    assert exact(record(OPEN, meta={"answer": "8"}), "8") == 1


def test_a_conversation_in_which_nobody_asks_is_left_out_and_counted(chat):
    alone = record([{"role": "assistant", "content": "hello"}])
    prompts = Prompts.build([alone, record(ANSWERED)], chat, 256, 8)
    assert (prompts.count, prompts.unasked) == (1, [1])
    assert "1 conversations of the train split are left out" in str(prompts.warning(256, 8))
    with pytest.raises(DataError, match="nobody but the assistant"):
        Prompts.build([alone], chat, 256, 8)


def test_a_teacher_is_asked_no_prompt_whose_tools_it_would_not_see(tmp_path, write_lines):
    write_lines(tmp_path / "train.jsonl", [record(OPEN), record(OPEN, tools=[{"type": "function"}])])
    told: list[Any] = []
    assert len(_prompts(tmp_path, "train", told.append)) == 1
    assert "1 prompts of the train split are left out: they come with `tools`" in told[0]["message"]
