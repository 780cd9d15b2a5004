"""What a turn holds beside text is kept; what is not supported is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivium.corpus.records import pieces, read, text_of, with_texts
from trivium.corpus.rows import BadRow, record
from trivium.corpus.run import build
from trivium.recipe.data import DataStage

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


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
CALLS = st.builds(
    lambda arguments, as_text: {
        "function": {"name": "f", "arguments": json.dumps(arguments) if as_text else arguments}
    },
    VALUES,
    st.booleans(),
)
TURNS = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant"]), "content": st.text(max_size=5)},
    optional={"reasoning_content": st.text(max_size=5), "tool_calls": st.lists(CALLS, max_size=2)},
)


@given(st.lists(TURNS, max_size=4), st.sampled_from(["messages", "prompt"]))
def test_each_text_of_a_turn_is_found_and_put_back(turns: list[dict[str, Any]], name: str) -> None:
    made = {name: turns} | ({"chosen": "a", "rejected": "b"} if name == "prompt" else {})
    texts = [piece.text for piece in pieces(made)]
    assert with_texts(made, texts) == made
    marked = with_texts(made, [f"<{number}>" for number in range(len(texts))])
    assert [piece.text for piece in pieces(marked)] == [f"<{number}>" for number in range(len(texts))]
    assert {turn["content"] for turn in turns} <= set(texts)


def collected(tmp_path: Path, rows: list[dict[str, Any]], **stage: Any) -> list[dict[str, Any]]:
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = {"kind": "jsonl", "path": str(tmp_path / "rows.jsonl")}
    config = DataStage(kind="data", format="conversations", heldout=0, sources=[source], **stage)
    build(config, seed=3, recipe_folder=tmp_path, out=tmp_path / "out", against={}, emit=lambda _: None)
    return list(read(tmp_path / "out" / "train"))


def call(content: Any, **arguments: Any) -> dict[str, Any]:
    function = {"name": "add", "arguments": json.dumps(arguments)}
    return {
        "role": "assistant",
        "content": content,
        "tool_calls": [{"type": "function", "function": function}],
    }


def test_a_turn_that_only_calls_a_tool_is_no_empty_one(tmp_path: Path) -> None:
    """As public data sets have them, with an empty content or none; calls with other arguments are other conversations."""
    rows = [
        {"messages": [ASK, call(content, number=number), RESULT, SAY], "tools": TOOLS}
        for number in range(4)
        for content in ("", None)
    ]
    kept = collected(tmp_path, rows, pii={})
    assert len(kept) == 4
    assert {
        json.loads(row["messages"][1]["tool_calls"][0]["function"]["arguments"])["number"] for row in kept
    } == {0, 1, 2, 3}
    assert all(row["messages"][2] == RESULT and row["tools"] == TOOLS for row in kept)


def test_what_is_personal_is_replaced_wherever_a_turn_says_it(tmp_path: Path) -> None:
    mail = "jo.smith@gmail.com"
    thought = {**call("", to=[mail], code="x = {1}\n\n\n\ny"), "reasoning_content": f"to {mail}"}
    [row] = collected(tmp_path, [{"messages": [ASK, thought, SAY]}], pii={})
    assert mail not in json.dumps(row)
    assert row["messages"][1]["reasoning_content"] == "to <EMAIL>"
    arguments = json.loads(row["messages"][1]["tool_calls"][0]["function"]["arguments"])
    assert arguments == {"to": ["<EMAIL>"], "code": "x = {1}\n\n\n\ny"}, "what machines read stays as it is"
    assert "<EMAIL>" in text_of(row)
