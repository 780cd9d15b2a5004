"""Replies that have to be JSON of a schema, or calls of tools: constrained by llguidance, which refuses what it cannot honour."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trivium.errors import DataError
from trivium.generate.batcher import Request
from trivium.generate.greedy import finish
from trivium.generate.remote import Answer
from trivium.generate.sampling import SamplingParams
from trivium.model.transformer import Transformer
from trivium.text.chat import ChatTokenizer, Message

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


class Held:
    """A model whose replies are JSON of a schema, each of its own: greedy, and the same in any company."""

    def __init__(self, model: Transformer, chat: ChatTokenizer) -> None:
        self.grammars = Grammars(chat, model.output_weight.shape[0])
        self.model, self.chat = model, chat

    def __call__(
        self, asked: Sequence[tuple[Sequence[Message], Mapping[str, Any]]], limit: int
    ) -> list[Answer | DataError]:
        """A reply to each (messages, schema), of `limit` tokens at most; why not, where a prompt is none or has no room."""
        replies: list[Request | DataError] = [
            self._request(messages, schema, limit) for messages, schema in asked
        ]
        finish(self.model, [one for one in replies if isinstance(one, Request)])
        return [one if isinstance(one, DataError) else self._answer(one) for one in replies]

    def _request(
        self, messages: Sequence[Message], schema: Mapping[str, Any], limit: int
    ) -> Request | DataError:
        try:
            prompt, context = self.chat.prompt(messages), self.model.config.context
            limit = min(limit, context - len(prompt))
            if limit < 1:
                raise DataError(f"the prompt has {len(prompt)} tokens, the context is {context}")
            greedy = SamplingParams(max_new_tokens=limit)
            stops = frozenset(self.chat.stops)
            return Request(prompt, greedy, limit, stops, constraint=self.grammars.schema(schema))
        except DataError as error:
            return error

    def _answer(self, one: Request) -> Answer:
        ids = [token for token in one.tokens[len(one.prompt) :] if token not in one.stops]
        return Answer(self.chat.decode(ids), one.finish == "stop", len(one.prompt), one.said)
