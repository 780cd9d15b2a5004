"""Anthropic's messages and count_tokens, through the same engine."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, model_validator

from trivium.serve import asked as asking
from trivium.serve import openai
from trivium.serve.asked import Asked
from trivium.serve.service import Service, Usage
from trivium.serve.wire import ChatBody, Count, Wire, checked, event

REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


class Block(Wire):
    type: Literal["text", "tool_use", "tool_result"]
    text: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, JsonValue] | None = None
    tool_use_id: str | None = None
    content: str | list[Block] | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> Block:
        needed = {"text": ("text",), "tool_use": ("id", "name", "input"), "tool_result": ("tool_use_id",)}
        if missing := [field for field in needed[self.type] if getattr(self, field) is None]:
            raise ValueError(f"a {self.type} block needs `{missing[0]}`")
        return self

    @property
    def said(self) -> str:
        if self.type == "text":
            return self.text or ""
        return self.content if isinstance(self.content, str) else "".join(b.said for b in self.content or ())


class Turn(Wire):
    role: Literal["user", "assistant"]
    content: str | list[Block]


class Tool(Wire):
    name: str
    description: str | None = None
    input_schema: dict[str, JsonValue]


class ToolChoice(Wire):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False


class CountBody(Wire):
    model: str
    messages: Annotated[list[Turn], Field(min_length=1)]
    system: str | list[Block] | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None


class MessagesBody(CountBody):
    max_tokens: Count
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    stop_sequences: Annotated[list[str], Field(max_length=16)] | None = None
    stream: bool | None = False


def _turns(turn: Turn) -> list[dict[str, Any]]:
    """A turn in OpenAI's words: results of tools are turns of their own there."""
    if isinstance(turn.content, str):
        return [{"role": turn.role, "content": turn.content}]
    results = [
        {"role": "tool", "tool_call_id": block.tool_use_id, "content": block.said}
        for block in turn.content
        if block.type == "tool_result"
    ]
    calls = [
        {
            "id": block.id,
            "type": "function",
            "function": {"name": block.name, "arguments": json.dumps(block.input)},
        }
        for block in turn.content
        if block.type == "tool_use"
    ]
    text = "".join(block.said for block in turn.content if block.type == "text")
    spoken: list[dict[str, Any]] = []
    if text or calls or not results:
        spoken = [{"role": turn.role, "content": text, **({"tool_calls": calls} if calls else {})}]
    return [*results, *spoken]


def _chat(body: CountBody) -> ChatBody:
    """The same request in OpenAI's words. ApiError where it makes no sense in them."""
    messages = [message for turn in body.messages for message in _turns(turn)]
    if body.system is not None:
        system = body.system if isinstance(body.system, str) else "".join(block.said for block in body.system)
        messages = [{"role": "system", "content": system}, *messages]
    given: dict[str, Any] = {"model": body.model, "messages": messages}
    if body.tools:
        given["tools"] = [
            {"type": "function", "function": {
                "name": tool.name, "description": tool.description, "parameters": tool.input_schema,
            }}
            for tool in body.tools
        ]  # fmt: skip
    if (choice := body.tool_choice) is not None:
        named = {"type": "function", "function": {"name": choice.name}}
        given["tool_choice"] = {"auto": "auto", "any": "required", "none": "none", "tool": named}[choice.type]
        given["parallel_tool_calls"] = not choice.disable_parallel_tool_use
    if isinstance(body, MessagesBody):
        given |= {
            "max_tokens": body.max_tokens, "temperature": body.temperature, "top_p": body.top_p,
            "top_k": body.top_k, "stop": body.stop_sequences,
        }  # fmt: skip
    return checked(ChatBody, given)


def _head(service: Service, counted: Usage) -> dict[str, Any]:
    return {
        "id": openai.identifier("msg"), "type": "message", "role": "assistant", "model": service.name,
        "content": [], "stop_reason": None, "stop_sequence": None, "usage": _usage(counted),
    }  # fmt: skip


def _usage(counted: Usage) -> dict[str, Any]:
    return {
        "input_tokens": counted.prompt - counted.cached,
        "cache_read_input_tokens": counted.cached,
        "cache_creation_input_tokens": 0,
        "output_tokens": counted.reply,
    }


async def count(service: Service, body: CountBody) -> dict[str, Any]:
    """How many tokens a conversation has."""
    return {"input_tokens": len(asking.chat(service, _chat(body)).prompts[0])}


def _asked(service: Service, body: MessagesBody) -> Asked:
    return asking.chat(service, _chat(body))


async def whole(service: Service, body: MessagesBody) -> dict[str, Any]:
    """A whole message."""
    asked = _asked(service, body)
    job = asking.submit(service, asked)
    text, blocks, finish = "", list[dict[str, Any]](), "stop"
    async for piece in openai.pieces(job, asked):
        text += piece.content
        blocks += [_used(call.name, json.loads(call.arguments)) for call in piece.calls]
        finish = piece.finish or finish
    said = [{"type": "text", "text": text}] if text or not blocks else []
    return {
        **_head(service, job.usage),
        "content": [*said, *blocks],
        **_ending(job.choices[0].matched, finish),
    }


def _used(name: str, arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": openai.identifier("toolu"), "name": name, "input": arguments}


def _ending(matched: str | None, finish: str) -> dict[str, Any]:
    if matched is not None and finish == "stop":
        return {"stop_reason": "stop_sequence", "stop_sequence": matched}
    return {"stop_reason": REASONS[finish], "stop_sequence": None}


async def stream(service: Service, body: MessagesBody) -> AsyncGenerator[str]:
    """The same as events: message_start, blocks with their deltas, message_delta, message_stop."""
    asked = _asked(service, body)
    job = asking.submit(service, asked)
    started, number, open_text, finish = False, 0, False, "stop"

    def told(kind: str, **more: Any) -> str:
        return event({"type": kind, **more}, kind)

    async for piece in openai.pieces(job, asked):
        if not started:
            started = True
            yield told("message_start", message=_head(service, job.usage))
        if piece.content:
            if not open_text:
                open_text = True
                yield told("content_block_start", index=number, content_block={"type": "text", "text": ""})
            yield told(
                "content_block_delta", index=number, delta={"type": "text_delta", "text": piece.content}
            )
        for call in piece.calls:
            if open_text:
                open_text = False
                yield told("content_block_stop", index=number)
                number += 1
            yield told("content_block_start", index=number, content_block=_used(call.name, {}))
            delta = {"type": "input_json_delta", "partial_json": call.arguments}
            yield told("content_block_delta", index=number, delta=delta)
            yield told("content_block_stop", index=number)
            number += 1
        finish = piece.finish or finish
    if open_text:
        yield told("content_block_stop", index=number)
    yield told("message_delta", delta=_ending(job.choices[0].matched, finish), usage=_usage(job.usage))
    yield told("message_stop")
