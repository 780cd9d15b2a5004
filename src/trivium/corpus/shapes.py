"""Rows as other tools write them, turned into the columns of `trivium.corpus.rows`: the one place that knows their names.

    ShareGPT (Axolotl, LLaMA-Factory)   `conversations` of `from` and `value`; `system`; `chosen` and `rejected` as such turns
    Alpaca                              `instruction`, `input`, `output`; `system`, `history`
    OpenAI preferences                  `input`, `preferred_output`, `non_preferred_output`

OpenAI's `messages` and TRL's columns are those of `rows` already.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

Row = dict[str, Any]
ROLES = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "model", "chatgpt", "bot"), "assistant"),
    **dict.fromkeys(("tool", "observation", "function_response"), "tool"),
    "system": "system",
}
"""Who speaks in `from` -> the role."""


def common(row: Mapping[str, Any]) -> Row:
    """The row with the names that `rows` knows; as it is where it has them already, or has those of no tool that is known."""
    row = dict(row)
    if isinstance(row.get("conversations"), list) and "messages" not in row:
        row = _sharegpt(row)
    elif "instruction" in row and ("output" in row or "chosen" in row):
        row = _alpaca(row)
    elif "preferred_output" in row and isinstance(row.get("input"), Mapping):
        asked = row.pop("input")
        row |= {"prompt": asked.get("messages"), "tools": asked.get("tools") or row.get("tools")}
        row |= {"chosen": row.pop("preferred_output"), "rejected": row.pop("non_preferred_output", None)}
    return {name: value for name, value in row.items() if value is not None}


def _sharegpt(row: Row) -> Row:
    turns = [*_system(row), *map(_turn, row.pop("conversations"))]
    if "chosen" not in row:
        return {**row, "messages": turns}
    replies = {
        name: [_turn(row[name])] for name in ("chosen", "rejected") if isinstance(row.get(name), Mapping)
    }
    return {**row, "prompt": turns, **replies}


def _alpaca(row: Row) -> Row:
    asked = [row.pop("instruction"), row.pop("input", None)]
    question = "\n\n".join(str(part) for part in asked if part)
    turns = _system(row)
    for before in row.pop("history", None) or ():
        turns += [_said("user", before[0]), _said("assistant", before[1])]
    turns.append(_said("user", question))
    if "chosen" in row:
        return {**row, "prompt": turns}
    return {**row, "messages": [*turns, _said("assistant", row.pop("output"))]}


def _system(row: Row) -> list[Row]:
    system = row.pop("system", None)
    return [_said("system", system)] if system else []


def _said(role: str, content: Any) -> Row:
    return {"role": role, "content": content}


def _turn(turn: Any) -> Any:
    """A turn of `from` and `value`, with a role; anything else stays, and `rows` says what is wrong with it."""
    if not isinstance(turn, Mapping) or "from" not in turn:
        return turn
    turn = dict(turn)
    speaker, value = turn.pop("from"), turn.pop("value", None)
    if speaker == "function_call":
        try:
            calls = json.loads(value)
        except (TypeError, ValueError):
            return {**turn, **_said("function_call", value)}  # no role: refused by its name
        calls = calls if isinstance(calls, list) else [calls]
        made = [{"type": "function", "function": call} for call in calls]
        return {**turn, **_said("assistant", ""), "tool_calls": made}
    return {**turn, **_said(ROLES.get(str(speaker).lower(), speaker), value)}
