"""Rows as other tools write them give the record that our own columns give."""

from __future__ import annotations

from typing import Any

import pytest

from trivium.corpus.rows import BadRow, record


def turn(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def shared(speaker: str, value: str) -> dict[str, str]:
    return {"from": speaker, "value": value}


ASK, SAY, NO, BRIEF = (
    turn("user", "Why?"),
    turn("assistant", "So."),
    turn("assistant", "No."),
    turn("system", "Brief."),
)
TALK = {"messages": [BRIEF, ASK, SAY]}
PAIR = {"prompt": [BRIEF, ASK], "chosen": "So.", "rejected": "No."}
CALL = {"name": "look", "arguments": {"at": 1}}
TOOLS = [{"type": "function", "function": {"name": "look"}}]
CALLED = turn("assistant", "", tool_calls=[{"type": "function", "function": CALL}])
CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (
        "conversations",
        {"conversations": [shared("system", "Brief."), shared("human", "Why?"), shared("gpt", "So.")]},
        TALK,
    ),
    (
        "conversations",
        {"conversations": [shared("human", "Why?"), shared("gpt", "So.")], "system": "Brief."},
        TALK,
    ),
    ("conversations", {"conversations": [BRIEF, ASK, SAY]}, TALK),
    ("conversations", {"instruction": "Why?", "input": "", "output": "So.", "system": "Brief."}, TALK),
    (
        "conversations",
        {"instruction": "Add", "input": "1 and 2", "output": "3", "history": [["Why?", "So."]]},
        {"messages": [ASK, SAY, turn("user", "Add\n\n1 and 2"), turn("assistant", "3")]},
    ),
    (
        "conversations",
        {
            "conversations": [
                shared("human", "Why?"),
                shared("function_call", '{"name": "look", "arguments": {"at": 1}}'),
                shared("observation", "5"),
                shared("gpt", "So."),
            ],
            "tools": '[{"type": "function", "function": {"name": "look"}}]',
        },
        {"messages": [ASK, CALLED, turn("tool", "5"), SAY], "tools": TOOLS},
    ),
    (
        "preferences",
        {
            "conversations": [shared("human", "Why?")],
            "system": "Brief.",
            "chosen": shared("gpt", "So."),
            "rejected": shared("gpt", "No."),
        },
        PAIR,
    ),
    (
        "preferences",
        {"instruction": "Why?", "input": "", "chosen": "So.", "rejected": "No.", "system": "Brief."},
        PAIR,
    ),
    (
        "preferences",
        {"input": {"messages": [BRIEF, ASK]}, "preferred_output": [SAY], "non_preferred_output": [NO]},
        PAIR,
    ),
]


@pytest.mark.parametrize(("format", "row", "ours"), CASES)
def test_a_row_of_another_tool_is_the_record_that_it_means(format, row, ours):
    assert record(row, format) == record(ours, format)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "Why?", "reply": "So."}, "'question', 'reply'"),
        ({"conversations": [shared("narrator", "Why?")]}, "unknown role 'narrator'"),
        ({"conversations": [shared("function_call", "no json")]}, "unknown role 'function_call'"),
        ({"instruction": "Why?", "output": 3}, "not a string but int"),
    ],
)
def test_what_has_no_known_shape_is_refused_by_name(row, said):
    with pytest.raises(BadRow, match=said):
        record(row, "conversations")
