"""Tools: told to the model through its own template where that writes them, and in words where it does not; calls read from
replies.

The form of a call is the one that Hermes and Qwen were taught: `<tool_call>{"name": ..., "arguments": ...}</tool_call>`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from trivium.serve.words import overlap

OPEN, CLOSE = "<tool_call>", "</tool_call>"
MOST = 16
"""Calls in one reply that is forced to call."""

TOLD = """You may call these functions:
{tools}
To call one, answer with its name and arguments as JSON, in this form:
{open}
{{"name": "...", "arguments": {{...}}}}
{close}"""


class Call(NamedTuple):
    name: str
    arguments: str  # JSON


def told(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A conversation with tools, its calls and their results in words, for templates that write none of them."""
    listed = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    rest = [_in_words(message) for message in messages]
    if not tools:
        return rest
    said = TOLD.format(tools=listed, open=OPEN, close=CLOSE)
    if rest and rest[0]["role"] == "system":
        return [{"role": "system", "content": f"{rest[0]['content']}\n\n{said}"}, *rest[1:]]
    return [{"role": "system", "content": said}, *rest]


def _in_words(message: Mapping[str, Any]) -> dict[str, Any]:
    content = message.get("content") or ""
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{content}\n</tool_response>"}
    for call in message.get("tool_calls") or ():
        body = {"name": call["function"]["name"], "arguments": json.loads(call["function"]["arguments"])}
        content += f"\n{OPEN}\n{json.dumps(body, ensure_ascii=False)}\n{CLOSE}"
    return {"role": message["role"], "content": content.strip("\n") if message.get("tool_calls") else content}


class Reader:
    """Splits a reply that comes in pieces into content and calls. What looks like a call and is none stays content."""

    def __init__(self, names: frozenset[str]) -> None:
        self.names, self.called = names, 0
        self._held = ""
        self._gap: str | None = None  # white space since a call: it counts only where content follows

    def _content(self, text: str) -> str:
        if self._gap is None:
            return text
        self._gap += text
        if not self._gap.strip():
            return ""
        text, self._gap = self._gap, None
        return text

    def push(self, text: str) -> tuple[str, list[Call]]:
        """(content, calls) that are whole with this piece."""
        self._held += text
        content, calls = "", []
        while True:
            start = self._held.find(OPEN)
            if start < 0:
                keep = overlap(self._held, OPEN)
                cut = len(self._held) - keep
                content, self._held = content + self._content(self._held[:cut]), self._held[cut:]
                break
            end = self._held.find(CLOSE, start)
            if end < 0:
                content, self._held = content + self._content(self._held[:start]), self._held[start:]
                break
            body, after = self._held[start + len(OPEN) : end], end + len(CLOSE)
            call = _call(body, self.names)
            content += self._content(self._held[: start if call else after])
            self._held = self._held[after:]
            if call:
                calls.append(call)
                self._gap = ""
        self.called += len(calls)
        return content, calls

    def rest(self) -> tuple[str, list[Call]]:
        """What is left when the reply has ended; a last call whose closing tag is missing counts."""
        held, self._held = self._held, ""
        call = _call(held.removeprefix(OPEN), self.names) if held.startswith(OPEN) else None
        self.called += call is not None
        return ("", [call]) if call else (self._content(held), [])


def _call(body: str, names: frozenset[str]) -> Call | None:
    try:
        value = json.loads(body)
        arguments = value.get("arguments", value.get("parameters", {}))
        name = value["name"]
    except (ValueError, KeyError, AttributeError, RecursionError):
        return None
    if name not in names or not isinstance(arguments, dict):
        return None
    return Call(name, json.dumps(arguments, ensure_ascii=False))
