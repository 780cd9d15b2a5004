"""OpenAI's chat and completions: what comes from the engine, in their words, whole or as a stream."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, NamedTuple

from jsonschema import Draft202012Validator as validator

from trivium.generate.batcher import Token
from trivium.serve import asked as asking
from trivium.serve.asked import Asked
from trivium.serve.engines import check_model
from trivium.serve.problems import ApiError
from trivium.serve.service import Job, Service, Usage
from trivium.serve.tools import Call, Reader
from trivium.serve.wire import ChatBody, CompletionBody, event
from trivium.serve.words import Delta


class Piece(NamedTuple):
    """What a choice has more, with calls of tools told apart from content."""

    choice: int
    content: str
    calls: list[Call]
    tokens: list[Token]
    finish: str | None


async def pieces(job: Job, asked: Asked) -> AsyncIterator[Piece]:
    """The deltas of a job. `finish` is "tool_calls" where the reply called; it comes in a piece of its own."""
    readers: dict[int, Reader] = {}
    async for index, text, tokens, finish in job.deltas():
        calls: list[Call] = []
        if asked.names:
            reader = readers.setdefault(index, Reader(asked.names))
            text, calls = reader.push(text)
            if finish is not None:
                rest, more = reader.rest()
                text, calls = text + rest, calls + more
            if finish == "stop" and reader.called:
                finish = "tool_calls"
        if text or calls or tokens:
            yield Piece(index, text, calls, tokens, None)
        if finish is not None:
            yield Piece(index, "", [], [], finish)


def identifier(prefix: str) -> str:
    return f"{prefix}-{secrets.token_hex(12)}"


def usage(counted: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": counted.prompt,
        "completion_tokens": counted.reply,
        "total_tokens": counted.prompt + counted.reply,
        "prompt_tokens_details": {"cached_tokens": counted.cached},
    }


class _Logprobs:
    """Tokens in OpenAI's two shapes."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def name(self, token: int) -> str:
        return self.service.grammars.bytes_of(token).decode("utf-8", "replace")

    def chat(self, tokens: list[Token]) -> dict[str, Any]:
        def entry(token: int, logp: float) -> dict[str, Any]:
            raw = self.service.grammars.bytes_of(token)
            return {"token": raw.decode("utf-8", "replace"), "logprob": logp, "bytes": list(raw)}

        content = [{**entry(t.id, t.logp), "top_logprobs": [entry(i, v) for i, v in t.top]} for t in tokens]
        return {"content": content, "refusal": None}

    def completion(self, tokens: list[Token], start: int, top: int) -> dict[str, Any]:
        names = [self.name(token.id) for token in tokens]
        offsets = [start + sum(map(len, names[:n])) for n in range(len(names))]
        likeliest = [{self.name(i): v for i, v in token.top} for token in tokens] if top else None
        return {
            "tokens": names,
            "token_logprobs": [token.logp for token in tokens],
            "top_logprobs": likeliest,
            "text_offset": offsets,
        }


def _called(calls: list[Call], first: int, index: bool) -> list[dict[str, Any]]:
    return [
        {
            **({"index": first + number} if index else {}),
            "id": identifier("call"),
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for number, call in enumerate(calls)
    ]


def _verify(asked: Asked, index: int, text: str, finish: str) -> None:
    """A constrained reply that ended by itself is what was asked for, or an error: the grammar's word is checked."""
    if finish == "length" or asked.body.stops or not asked.matchers:
        return
    fits = asked.matchers[index].complete
    if fits and asked.schema is not None:
        fits = validator(asked.schema).is_valid(json.loads(text))
    if not fits:
        raise ApiError(500, "the reply does not fit its schema", code="schema_not_met")


async def chat(service: Service, body: ChatBody) -> dict[str, Any]:
    """A whole chat completion."""
    asked = asking.chat(service, body)
    job = asking.submit(service, asked)
    count = len(job.requests)
    text, calls, tokens = (
        [""] * count,
        [list[Call]() for _ in range(count)],
        [list[Token]() for _ in range(count)],
    )
    finish: dict[int, str] = {}
    async for piece in pieces(job, asked):
        text[piece.choice] += piece.content
        calls[piece.choice] += piece.calls
        tokens[piece.choice] += piece.tokens
        if piece.finish is not None:
            finish[piece.choice] = piece.finish
    for index in range(count):
        _verify(asked, index, text[index], finish[index])
    told = _Logprobs(service)
    choices = []
    for index in range(count):
        message: dict[str, Any] = {"role": "assistant", "content": text[index], "refusal": None}
        if calls[index]:
            message |= {"content": text[index] or None, "tool_calls": _called(calls[index], 0, index=False)}
        logprobs = told.chat(tokens[index]) if body.logprobs else None
        choices.append(
            {"index": index, "message": message, "logprobs": logprobs, "finish_reason": finish[index]}
        )
    return {
        "id": identifier("chatcmpl"),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": service.name,
        "choices": choices,
        "usage": usage(job.usage),
        "system_fingerprint": None,
    }


async def chat_stream(service: Service, body: ChatBody) -> AsyncGenerator[str]:
    """The same as events: a role, deltas, one empty delta with `finish_reason` for each choice, usage if asked for, [DONE]."""
    asked = asking.chat(service, body)
    job = asking.submit(service, asked)
    head = {
        "id": identifier("chatcmpl"),
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": service.name,
        "system_fingerprint": None,
    }
    with_usage = body.stream_options is not None and body.stream_options.include_usage
    if with_usage:
        head["usage"] = None
    told, said, called = _Logprobs(service), dict[int, str](), dict[int, int]()

    def chunk(
        index: int, delta: dict[str, Any], finish: str | None = None, tokens: list[Token] | None = None
    ) -> str:
        logprobs = told.chat(tokens or []) if body.logprobs and tokens else None
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return event({**head, "choices": [choice]})

    async for piece in pieces(job, asked):
        if piece.choice not in said:
            said[piece.choice] = ""
            content = None if asked.forced else ""
            yield chunk(piece.choice, {"role": "assistant", "content": content, "refusal": None})
        if piece.content or (piece.tokens and body.logprobs):
            yield chunk(piece.choice, {"content": piece.content}, tokens=piece.tokens)
        said[piece.choice] += piece.content
        for call in piece.calls:
            number = called.get(piece.choice, 0)
            called[piece.choice] = number + 1
            yield chunk(piece.choice, {"tool_calls": _called([call], number, index=True)})
        if piece.finish is not None:
            _verify(asked, piece.choice, said[piece.choice], piece.finish)
            yield chunk(piece.choice, {}, piece.finish)
    if with_usage:
        yield event({**head, "choices": [], "usage": usage(job.usage)})
    yield "data: [DONE]\n\n"


def _completion(service: Service, body: CompletionBody) -> tuple[Asked, list[str]]:
    """What was asked, and the texts of the prompts where they are to be echoed."""
    check_model(service, body.model)
    given: list[Any] = [body.prompt] if isinstance(body.prompt, str) else list(body.prompt)
    if given and isinstance(given[0], int):
        given = [given]
    if not given:
        raise ApiError(400, "there is no prompt", param="prompt")
    prompts = []
    for prompt in given:
        ids = [*service.chat.begin, *service.chat.guard.plain(prompt)] if isinstance(prompt, str) else prompt
        if any(not 0 <= token < service.model.config.vocab_size for token in ids):
            raise ApiError(400, "prompt: an id is not in the vocabulary", param="prompt")
        prompts.append(ids)
    echoed = (
        [p if isinstance(p, str) else service.chat.decode(p) for p in given]
        if body.echo
        else [""] * len(given)
    )
    limit = body.max_tokens if body.max_tokens is not None else 16  # OpenAI's default
    return Asked(prompts, body, limit, body.logprobs or 0), echoed


async def completion(service: Service, body: CompletionBody) -> dict[str, Any]:
    """A whole text completion: one choice for each prompt and number."""
    asked, echoed = _completion(service, body)
    job = asking.submit(service, asked)
    count, each = len(job.requests), body.n or 1
    text = [echoed[index // each] for index in range(count)]
    tokens: list[list[Token]] = [[] for _ in range(count)]
    finish: dict[int, str] = {}
    async for delta in job.deltas():
        text[delta.choice] += delta.text
        tokens[delta.choice] += delta.tokens
        finish |= {} if delta.finish is None else {delta.choice: delta.finish}
    told = _Logprobs(service)
    choices = [
        {
            "index": index,
            "text": text[index],
            "logprobs": None if body.logprobs is None else told.completion(tokens[index], 0, body.logprobs),
            "finish_reason": finish[index],
        }
        for index in range(count)
    ]
    return {**_completion_head(service), "choices": choices, "usage": usage(job.usage)}


def _completion_head(service: Service) -> dict[str, Any]:
    return {
        "id": identifier("cmpl"),
        "object": "text_completion",
        "created": int(time.time()),
        "model": service.name,
        "system_fingerprint": None,
    }


async def completion_stream(service: Service, body: CompletionBody) -> AsyncGenerator[str]:
    """The same as events."""
    asked, echoed = _completion(service, body)
    job = asking.submit(service, asked)
    head, told, length = _completion_head(service), _Logprobs(service), dict[int, int]()

    def chunk(delta: Delta, finish: str | None) -> str:
        start = length.get(delta.choice, 0)
        length[delta.choice] = start + len(delta.text)
        logprobs = None if body.logprobs is None else told.completion(delta.tokens, start, body.logprobs)
        choice = {"index": delta.choice, "text": delta.text, "logprobs": logprobs, "finish_reason": finish}
        return event({**head, "choices": [choice]})

    if body.echo:
        for index in range(len(job.requests)):
            yield chunk(Delta(index, echoed[index // (body.n or 1)], []), None)
    async for delta in job.deltas():
        if delta.text or delta.tokens:
            yield chunk(delta._replace(finish=None), None)
        if delta.finish is not None:
            yield chunk(Delta(delta.choice, "", []), delta.finish)
    if body.stream_options is not None and body.stream_options.include_usage:
        yield event({**head, "choices": [], "usage": usage(job.usage)})
    yield "data: [DONE]\n\n"
