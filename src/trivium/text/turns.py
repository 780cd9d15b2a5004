"""The turns of a conversation: which fields they have, which of them carry loss, and what a template makes of them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from trivium.errors import DataError

FIELDS = ("role", "content", "reasoning_content", "tool_calls", "tool_call_id", "name", "weight")
"""What a turn may say. `content` is text, or a list of `{"type": "text", "text": ...}`; it may be missing from a turn with
`tool_calls`. `weight`: what the loss of an assistant's turn is multiplied by (0: it is not learnt)."""
WRITTEN = ("reasoning_content", "tool_calls")
"""Fields that the template has to write: one that says nothing of them would drop them without a word."""

Tools = Sequence[Mapping[str, Any]] | None
Learn = Literal["all", "last", "none"]
Probe = Callable[[Sequence[Mapping[str, Any]], bool], str]
_HALF = re.compile("[\ud800-\udfff]")
PROBE = "triviumprobe"
MARKUP = re.compile(r"</?(\w+)>")
"""A tag that opens and closes inside a turn, such as <think>: text that a model may write."""


class End(NamedTuple):
    """What a template writes behind a reply: the text, and the token that it begins with if it is one."""

    text: str
    token: str | None


def problem(turn: Mapping[str, Any]) -> str | None:
    """What is wrong with the fields of a turn, in words; None where nothing is. Fields that are None count as missing."""
    unknown = [name for name, value in turn.items() if value is not None and name not in FIELDS]
    if unknown:
        return f"the field `{unknown[0]}` is not supported; a turn has {', '.join(FIELDS)}"
    weight = turn.get("weight")
    if weight is not None and not (isinstance(weight, int | float) and math.isfinite(weight) and weight >= 0):
        return f"`weight` is {weight!r:.40}; it must be a number of 0 or more"
    for name in ("reasoning_content", "tool_call_id", "name"):
        if turn.get(name) is not None and not _is_text(turn[name]):
            return f"`{name}` is no text: {turn[name]!r:.60}"
    calls = turn.get("tool_calls")
    if calls is not None and not (isinstance(calls, list) and all(isinstance(call, dict) for call in calls)):
        return f"`tool_calls` is no list of objects: {calls!r:.60}"
    content = turn.get("content")
    if isinstance(content, list):
        other = [p for p in content if not (isinstance(p, dict) and p.get("type") == "text")]
        if other:
            kind = other[0].get("type") if isinstance(other[0], dict) else type(other[0]).__name__
            return f"a part of the content is of the type {kind!r}, which is not supported; only text is"
        content = text_of(content)
    if content is None and calls:
        return None
    return None if _is_text(content) else f"a message's content is no text: {content!r:.80}"


def _is_text(value: Any) -> bool:
    # a terminal or JSON can give half a surrogate pair, which has no bytes
    return isinstance(value, str) and not _HALF.search(value)


def text_of(content: Any) -> Any:
    """A content in parts as one text; anything else stays."""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content)
    return content


def in_parts(turn: Mapping[str, Any]) -> dict[str, Any]:
    """A turn whose text is a list of one part."""
    content = turn.get("content")
    return {**turn, "content": [{"type": "text", "text": content}] if isinstance(content, str) else content}


def shown(turn: Mapping[str, Any], template: str) -> dict[str, Any]:
    """A turn as the template gets it. DataError for what is wrong with it, and for fields that the template never writes."""
    if said := problem(turn):
        raise DataError(said, fix="give every message a `content` of valid Unicode text")
    for name in WRITTEN:
        if turn.get(name) and name not in template:
            raise DataError(
                f"the chat template does not write `{name}`: what it holds would be lost",
                fix="leave it out, write it into `content`, or import with a `chat_template` that knows it",
            )
    made = {
        name: value
        for name, value in turn.items()
        if name == "role" or (value is not None and name != "weight")
    }
    made["content"] = text_of(turn.get("content"))
    if calls := turn.get("tool_calls"):
        made["tool_calls"] = [_call(call) for call in calls]
    return made


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    """A tool call. Arguments that are JSON in a string, as APIs give them, become what they say: templates quote them twice."""
    call = {name: value for name, value in call.items() if value is not None}
    inner = call.get("function", call)
    if isinstance(inner, Mapping) and isinstance(inner.get("arguments"), str):
        try:
            inner = {**inner, "arguments": json.loads(inner["arguments"])}
        except ValueError:
            raise DataError(f"the arguments of a tool call are no JSON: {inner['arguments']!r:.60}") from None
        call = {**call, "function": inner} if "function" in call else inner
    return dict(call)


def is_rich(turn: Mapping[str, Any]) -> bool:
    """Whether a turn has more than a role and a content."""
    return any(name not in ("role", "content") for name in turn)


def check_tools(tools: Tools, template: str) -> None:
    if tools and "tools" not in template:
        raise DataError(
            "the chat template does not write `tools`: the model would not know of them",
            fix="leave `tools` out, or import with a `chat_template` that knows them",
        )


def weights(messages: Sequence[Mapping[str, Any]], learn: Learn) -> list[float]:
    """The weight of each turn's loss: 0 for all but the assistant's, and for those that are not to be learnt."""
    last = max((n for n, turn in enumerate(messages) if turn.get("role") == "assistant"), default=-1)
    return [
        float(1 if (weight := turn.get("weight")) is None else weight)
        if turn.get("role") == "assistant" and (learn == "all" or (learn == "last" and number == last))
        else 0.0
        for number, turn in enumerate(messages)
        if (said := problem(turn)) is None or _refuse(said)
    ]


def _refuse(said: str) -> bool:
    raise DataError(said, fix="give every message a `content` of valid Unicode text")


def _user() -> dict[str, str]:
    return {"role": "user", "content": PROBE}


def openings(probe: Probe) -> str:
    """What a template writes around turns of all roles, as far as it takes them."""
    system, assistant = ({"role": role, "content": PROBE} for role in ("system", "assistant"))
    for talk in ([system, _user(), assistant, _user()], [_user(), assistant, _user()], [_user()]):
        try:
            return probe(talk, True)
        except DataError:
            continue
    return ""


def end_of_turn(probe: Probe, tokens: Iterable[str]) -> End:
    """What the template writes behind a reply, white space apart; empty where it writes nothing or takes no such turn."""
    try:
        text = probe([_user(), {"role": "assistant", "content": PROBE}], False)
    except DataError:
        return End("", None)
    closing = text.rpartition(PROBE)[2].strip()
    fits = [token for token in tokens if token and closing.startswith(token)]
    return End(closing, max(fits, key=len, default=None))
