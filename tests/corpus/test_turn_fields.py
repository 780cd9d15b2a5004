"""What a turn holds beside text is kept; what is not supported is refused by name."""

from __future__ import annotations

import json

import pytest

from trivium.corpus.rows import BadRow, record

ASK = {"role": "user", "content": "Why?"}
SAY = {"role": "assistant", "content": "Because."}
TOOLS = [{"type": "function", "function": {"name": "add"}}]
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"type": "function", "function": {"name": "add"}}],
}
RESULT = {"role": "tool", "content": ""}


def test_what_a_turn_holds_beside_text_is_kept():
    turns = [ASK, CALL, RESULT, {**SAY, "reasoning_content": "hm", "weight": 0.5, "name": None}]
    for tools in (TOOLS, json.dumps(TOOLS)):
        kept = record({"messages": turns, "tools": tools}, "conversations")
        assert kept["tools"] == TOOLS
        assert kept["messages"][1] == {**CALL, "content": ""}
        assert kept["messages"][2] == RESULT
        assert kept["messages"][3] == {**SAY, "reasoning_content": "hm", "weight": 0.5}
    pair = {"prompt": [ASK, CALL, RESULT], "chosen": "a", "rejected": "b", "tools": TOOLS}
    kept = record(pair, "preferences")
    assert (kept["tools"], kept["prompt"][1]["tool_calls"]) == (TOOLS, CALL["tool_calls"])


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"messages": [ASK, {**SAY, "loss": True}]}, "`messages.1.`: the field `loss` is not supported"),
        ({"messages": [ASK, {**SAY, "weight": -1}]}, "`weight` is -1"),
        ({"messages": [ASK, {**SAY, "content": [{"type": "image"}]}]}, "of the type 'image'"),
        ({"messages": [ASK, {**SAY, "tool_calls": "add"}]}, "`tool_calls` is no list"),
        ({"messages": [ASK, SAY], "tools": [1]}, "`tools` is not a list of JSON schemas"),
        ({"messages": [ASK, SAY], "tools": "[1"}, "`tools` is no JSON"),
    ],
)
def test_fields_of_a_turn_that_are_not_supported_are_named(row, said):
    with pytest.raises(BadRow, match=said):
        record(row, "conversations")


def test_a_preferred_reply_is_text_alone():
    with pytest.raises(BadRow, match="`chosen` has the field `tool_calls`"):
        record({"prompt": [ASK], "chosen": [CALL], "rejected": "b"}, "preferences")
