"""A row of named columns as a record of one of the formats, whatever file it stood in. What is wrong with it is said.

    documents      `text` (or the column that the source names)
    conversations  `messages`, or `prompt` and `completion`
    preferences    `prompt`, `chosen` and `rejected`
    feedback       `prompt`, `completion` and `label`

Rows that other tools write are brought to these columns first (`trivium.corpus.shapes`). `meta`, an object, is kept as it is.
A turn may have the fields of `trivium.text.turns`, and a row `tools` that the assistant may call; a field that is not known is
refused by its name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from trivium.corpus.records import Messages, Record
from trivium.corpus.shapes import common
from trivium.keys import key_of
from trivium.text.turns import problem, text_of

ROLES = ("system", "user", "assistant", "tool")


class BadRow(ValueError):
    """A row that cannot be read as what it should be: a dead letter."""


class EmptyRow(ValueError):
    """A row that says nothing: left out, and counted with its reason."""


def parse(line: bytes) -> Record:
    """One line of JSON as a row. BadRow otherwise."""
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BadRow(f"not UTF-8: byte 0x{line[error.start]:02x} at {error.start}") from None
    except ValueError as error:
        raise BadRow(f"no JSON: {error}") from None
    except RecursionError:
        raise BadRow("no JSON: nested too deeply") from None
    if not isinstance(value, dict):
        raise BadRow(f"not an object but {type(value).__name__}")
    return value


def record(row: Mapping[str, Any], format: str, column: str = "text") -> Record:
    """The record in a row: `key`, the fields of its format and `meta`. BadRow or EmptyRow if there is none."""
    row = dict(row)
    if format != "documents":
        row = common({name: value for name, value in row.items() if value is not None})
    tools = {} if format == "documents" else _tools(row)
    return {**_FORMATS[format](row, column), "meta": _meta(row), **tools}


def _meta(row: Record) -> Record:
    meta = row.get("meta") or {}
    if isinstance(meta, str):  # as our own Parquet files hold it
        try:
            meta = json.loads(meta)
        except ValueError:
            raise BadRow("`meta` is no JSON") from None
    if not isinstance(meta, dict):
        raise BadRow(f"`meta` is not an object but {type(meta).__name__}")
    return meta


def _document(row: Record, column: str) -> Record:
    text = string(row, column)
    return {"key": key_of(text), "text": text}


def _conversation(row: Record, _: str) -> Record:
    turns = _messages(row["messages"], "messages") if "messages" in row else _pair(row)
    if not any(turn["role"] == "assistant" for turn in turns):
        raise BadRow("`messages` holds no assistant turn, so there is nothing to learn")
    return {"key": _prompt_key(turns), "messages": turns}


def _preference(row: Record, _: str) -> Record:
    prompt = _implied_prompt(row) if "prompt" not in row else _prompt(row)
    chosen, rejected = (_reply(row, name, prompt) for name in ("chosen", "rejected"))
    if chosen.strip() == rejected.strip():
        raise BadRow("`chosen` and `rejected` are equal, so the pair prefers nothing")
    return {"key": _prompt_key(prompt), "prompt": prompt, "chosen": chosen, "rejected": rejected}


def _feedback(row: Record, _: str) -> Record:
    prompt = _prompt(row)
    completion = _reply(row, "completion", prompt)
    label = row.get("label")
    if not isinstance(label, bool | int) or label not in (0, 1):
        raise BadRow(f"`label` is {label!r:.40}; it must be true or false, 1 or 0")
    return {"key": _prompt_key(prompt), "prompt": prompt, "completion": completion, "label": int(label)}


_FORMATS = {
    "documents": _document,
    "conversations": _conversation,
    "preferences": _preference,
    "feedback": _feedback,
}


def _implied_prompt(row: Record) -> Messages:
    """The prompt of a pair of whole conversations: what both hold before the last turn."""
    if not all(isinstance(row.get(name), list) for name in ("chosen", "rejected")):
        return _prompt(row)
    chosen, rejected = (_messages(row[name], name) for name in ("chosen", "rejected"))
    place = next(
        (i for i, (a, b) in enumerate(zip(chosen[:-1], rejected[:-1], strict=False)) if a != b),
        None if len(chosen) == len(rejected) else min(len(chosen), len(rejected)) - 1,
    )
    if place is not None:
        raise BadRow(f"the prompts of `chosen` and `rejected` differ, first in turn {place + 1}")
    if len(chosen) < 2:
        raise BadRow("`chosen` and `rejected` hold a reply and no prompt")
    return chosen[:-1]


def _prompt_key(turns: Messages) -> str:
    """The identity of a conversation is what was asked: all replies to it stay on one side of the split."""
    asked = []
    for turn in turns:
        if turn["role"] == "assistant":
            break
        asked.append(turn["content"])
    return key_of("\n".join(asked))


def string(row: Record, name: str) -> str:
    if name not in row:
        raise BadRow(f"no `{name}`; it has {', '.join(map(repr, row)) or 'no columns'}")
    value = row[name]
    if value is None:
        raise EmptyRow(f"`{name}` is empty")
    if not isinstance(value, str):
        raise BadRow(f"`{name}` is not a string but {type(value).__name__}")
    if not value.strip():
        raise EmptyRow(f"`{name}` is empty")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise BadRow(f"`{name}` holds half a surrogate pair, which is no text") from None
    return value


def _messages(value: Any, name: str) -> Messages:
    if not isinstance(value, list) or not value:
        raise BadRow(f"`{name}` is not a list of turns")
    turns = []
    for place, turn in enumerate(value):
        if not isinstance(turn, dict):
            raise BadRow(f"`{name}[{place}]` is not an object with `role` and `content`")
        role = string(turn, "role")
        if role not in ROLES:
            raise BadRow(f"`{name}[{place}]` has the unknown role {role!r}; known: {', '.join(ROLES)}")
        turns.append({**_fields(turn, f"{name}[{place}]", role), "role": role})
    return turns


def _fields(turn: Record, where: str, role: str) -> Record:
    """What a turn says beside its role. BadRow for a field that is not known, by name: none is dropped in silence."""
    fields = {name: value for name, value in turn.items() if value is not None}
    content = text_of(turn.get("content"))
    if isinstance(turn.get("content"), list) and (reason := problem(fields)):
        raise BadRow(f"`{where}`: {reason}")
    if role == "tool" or turn.get("tool_calls") or turn.get("reasoning_content"):
        content = "" if content is None else content  # the content may be empty
    else:
        content = string(turn if content is None else {**turn, "content": content}, "content")
    if reason := problem({**fields, "content": content}):
        raise BadRow(f"`{where}`: {reason}")
    return {**fields, "content": content}


def _tools(row: Record) -> Record:
    """The functions that the assistant of a row may call, as a list of JSON schemas or as JSON."""
    tools = row.get("tools")
    if isinstance(tools, str) and tools:
        try:
            tools = json.loads(tools)
        except ValueError as error:
            raise BadRow(f"`tools` is no JSON: {error}") from None
    if not tools:
        return {}
    if not (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
        raise BadRow("`tools` is not a list of JSON schemas")
    return {"tools": tools}


def _pair(row: Record) -> Messages:
    return [*_prompt(row), {"role": "assistant", "content": _reply(row, "completion", [])}]


def _prompt(row: Record) -> Messages:
    if isinstance(row.get("prompt"), list):
        return _messages(row["prompt"], "prompt")
    return [{"role": "user", "content": string(row, "prompt")}]


def _reply(row: Record, name: str, prompt: Messages) -> str:
    """A reply as a string or as messages: its own turn, or a conversation that starts with the prompt."""
    if not isinstance(row.get(name), list):
        return string(row, name)
    turns = _messages(row[name], name)
    own = turns[len(prompt) :] if turns[: len(prompt)] == prompt else turns
    if own is turns and len(turns) > 1 and turns[-1]["role"] == "assistant":
        raise BadRow(f"`{name}` begins with another prompt than the row's own")
    if len(own) != 1 or own[0]["role"] != "assistant":
        raise BadRow(f"`{name}` is not one assistant turn after the prompt")
    if more := [field for field in own[0] if field not in ("role", "content")]:
        raise BadRow(f"`{name}` has the field `{more[0]}`, which a reply of this format cannot have")
    return str(own[0]["content"])
