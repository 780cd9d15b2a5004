"""Replies that have to be JSON of a schema, or calls of tools: constrained by llguidance, which refuses what it cannot honour."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trivium.errors import DataError
from trivium.text.chat import ChatTokenizer

_SHAPE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class Grammars:
    """Compiles constraints for one tokenizer; making it takes a second for large vocabularies. `vocabulary`: rows of logits."""

    def __init__(self, chat: ChatTokenizer, vocabulary: int) -> None:
        import llguidance

        self._make = llguidance.LLMatcher
        self._stops = frozenset(chat.stops)
        self._tokenizer = llguidance.LLTokenizer(
            chat.tokenizer.to_str(), n_vocab=vocabulary, eos_token=list(chat.stops)
        )

    def bytes_of(self, token: int) -> bytes:
        """What a token adds to a text."""
        piece: bytes = self._tokenizer.decode_bytes([token])
        return piece.removeprefix(b"\xff")  # how a control token is told from text that spells it

    def schema(self, schema: Mapping[str, Any]) -> Matcher:
        """JSON of a schema. DataError with llguidance's words, which name the keyword, for one that cannot be honoured."""
        return self._matcher(_json(schema))

    def calls(self, tools: Sequence[Mapping[str, Any]], *, opening: str, closing: str, most: int) -> Matcher:
        """One to `most` calls of `tools` (name and parameters of each), each an object between `opening` and `closing`."""
        call = {"anyOf": [_call(tool) for tool in tools]} if len(tools) > 1 else _call(tools[0])
        start = f'start: call ("\\n" call){{0,{most - 1}}}\n' if most > 1 else "start: call\n"
        rule = f"call: {json.dumps(opening)} body {json.dumps(closing)}\n"
        return self._matcher(f"{start}{rule}body: %json {_json(call, inside=True)}\n", lark=True)

    def _matcher(self, source: str, lark: bool = False) -> Matcher:
        make = self._make
        grammar = make.grammar_from_lark(source) if lark else make.grammar_from_json_schema(source)
        matcher = make(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            said = str(matcher.get_error()).strip().splitlines()[0]
            raise DataError(f"the schema cannot be honoured: {said}")
        return Matcher(matcher, self._stops)


def _call(tool: Mapping[str, Any]) -> dict[str, Any]:
    parameters = tool.get("parameters") or {"type": "object", "properties": {}}
    return {
        "type": "object",
        "properties": {"name": {"const": tool["name"]}, "arguments": parameters},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _json(schema: Mapping[str, Any], inside: bool = False) -> str:
    try:
        return json.dumps({**schema, "x-guidance": _SHAPE})
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"the schema is no JSON: {error}") from None


class Matcher:
    """A `batcher.Constraint`: where a reply stands in its grammar."""

    def __init__(self, matcher: Any, stops: frozenset[int]) -> None:
        self._matcher, self._stops = matcher, stops

    def allowed(self) -> Tensor:
        """(V,) bool: the ids that may come next; those that end a reply where it may end."""
        return torch.frombuffer(bytearray(self._matcher.compute_logit_bias()), dtype=torch.uint8) > 0

    def accept(self, token: int) -> bool:
        """Takes the next id; True where nothing may follow, or the grammar has gone wrong."""
        taken: bool = self._matcher.consume_token(token)
        return not taken or bool(self._matcher.is_stopped())

    @property
    def complete(self) -> bool:
        return bool(self._matcher.is_accepting()) and not self._matcher.is_error()
