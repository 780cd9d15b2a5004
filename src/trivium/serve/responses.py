"""OpenAI's responses, as far as one turn goes: text in, text and calls of functions out. Nothing is stored."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, model_validator

from trivium.serve import asked as asking
from trivium.serve import openai
from trivium.serve.asked import Asked
from trivium.serve.service import Service, Usage
from trivium.serve.tools import Call
from trivium.serve.wire import ChatBody, Count, TextPart, Wire, checked, event


class Item(Wire):
    type: Literal["message", "function_call", "function_call_output"] = "message"
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: str | list[TextPart] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | None = None


class Tool(Wire):
    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, JsonValue] | None = None


class Named(Wire):
    type: Literal["function"]
    name: str


class Format(Wire):
    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str = "reply"
    schema_: Annotated[dict[str, JsonValue] | None, Field(alias="schema")] = None


class TextOptions(Wire):
    format: Format | None = None


class ResponseBody(Wire):
    model: str
    input: str | Annotated[list[Item], Field(min_length=1)]
    instructions: str | None = None
    max_output_tokens: Count | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    stream: bool | None = False
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | Named | None = None
    parallel_tool_calls: bool | None = True
    text: TextOptions | None = None
    previous_response_id: str | None = None

    @model_validator(mode="after")
    def _is_one_turn(self) -> ResponseBody:
        if self.previous_response_id is not None:
            raise ValueError(
                "`previous_response_id` is not served: nothing is stored; send the whole conversation"
            )
        return self


def _turn(item: Item) -> dict[str, Any]:
    if item.type == "function_call":
        function = {"name": item.name, "arguments": item.arguments or "{}"}
        return {
            "role": "assistant",
            "tool_calls": [{"id": item.call_id, "type": "function", "function": function}],
        }
    if item.type == "function_call_output":
        return {"role": "tool", "tool_call_id": item.call_id, "content": item.output or ""}
    content = item.content if isinstance(item.content, str) else [p.model_dump() for p in item.content or ()]
    return {"role": item.role or "user", "content": content}


def _asked(service: Service, body: ResponseBody) -> Asked:
    turns = (
        [{"role": "user", "content": body.input}]
        if isinstance(body.input, str)
        else [_turn(i) for i in body.input]
    )
    if body.instructions:
        turns = [{"role": "system", "content": body.instructions}, *turns]
    given: dict[str, Any] = {
        "model": body.model, "messages": turns, "temperature": body.temperature, "top_p": body.top_p,
        "max_completion_tokens": body.max_output_tokens, "parallel_tool_calls": body.parallel_tool_calls,
    }  # fmt: skip
    if body.tools:
        given["tools"] = [
            {"type": "function", "function": tool.model_dump(exclude={"type"})} for tool in body.tools
        ]
    if isinstance(body.tool_choice, Named):
        given["tool_choice"] = {"type": "function", "function": {"name": body.tool_choice.name}}
    elif body.tool_choice is not None:
        given["tool_choice"] = body.tool_choice
    form = body.text.format if body.text is not None else None
    if form is not None:
        given["response_format"] = {"type": form.type}
        if form.schema_ is not None:
            given["response_format"]["json_schema"] = {"name": form.name, "schema": form.schema_}
    return asking.chat(service, checked(ChatBody, given))


def _described(
    service: Service, body: ResponseBody, name: str, output: list[Any], status: str
) -> dict[str, Any]:
    return {
        "id": name, "object": "response", "created_at": int(time.time()), "status": status, "model": service.name,
        "output": output, "error": None, "incomplete_details": None, "instructions": body.instructions,
        "metadata": {}, "parallel_tool_calls": body.parallel_tool_calls is not False, "temperature": body.temperature,
        "top_p": body.top_p, "tool_choice": "auto" if body.tool_choice is None else wired(body.tool_choice),
        "tools": [tool.model_dump() for tool in body.tools or ()], "usage": None,
        "max_output_tokens": body.max_output_tokens, "previous_response_id": None,
    }  # fmt: skip


def wired(value: Any) -> Any:
    return value.model_dump() if isinstance(value, Wire) else value


def _message(name: str, text: str, status: str) -> dict[str, Any]:
    content = [_part(text)] if text or status != "in_progress" else []
    return {"id": name, "type": "message", "role": "assistant", "status": status, "content": content}


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _usage(counted: Usage) -> dict[str, Any]:
    return {
        "input_tokens": counted.prompt,
        "input_tokens_details": {"cached_tokens": counted.cached},
        "output_tokens": counted.reply,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": counted.prompt + counted.reply,
    }


async def whole(service: Service, body: ResponseBody) -> dict[str, Any]:
    """A whole response: the last of the events has it."""
    last = [told async for told in _events(service, body)][-1]
    response: dict[str, Any] = last["response"]
    return response


async def stream(service: Service, body: ResponseBody) -> AsyncGenerator[str]:
    number = 0
    async for told in _events(service, body):
        yield event({**told, "sequence_number": number}, told["type"])
        number += 1


def _function(call: Call) -> dict[str, Any]:
    return {
        "id": openai.identifier("fc"), "type": "function_call", "call_id": openai.identifier("call"),
        "name": call.name, "arguments": call.arguments, "status": "completed",
    }  # fmt: skip


def _called(item: dict[str, Any], place: int) -> Iterator[dict[str, Any]]:
    """The events of one call."""
    empty = {**item, "arguments": "", "status": "in_progress"}
    where = {"item_id": item["id"], "output_index": place}
    done = {"arguments": item["arguments"], "name": item["name"]}
    yield {"type": "response.output_item.added", "output_index": place, "item": empty}
    yield {"type": "response.function_call_arguments.delta", **where, "delta": item["arguments"]}
    yield {"type": "response.function_call_arguments.done", **where, **done}
    yield {"type": "response.output_item.done", "output_index": place, "item": item}


async def _events(service: Service, body: ResponseBody) -> AsyncIterator[dict[str, Any]]:
    """response.created, an item for the text and one for each call, response.completed or response.incomplete."""
    asked = _asked(service, body)
    job = asking.submit(service, asked)
    name, item, text, finish = openai.identifier("resp"), openai.identifier("msg"), "", "stop"
    begun = False
    output: list[dict[str, Any]] = []
    at: int | None = None  # where the text stands among the items
    async for piece in openai.pieces(job, asked):
        if not begun:
            begun = True
            for kind in ("response.created", "response.in_progress"):
                yield {"type": kind, "response": _described(service, body, name, [], "in_progress")}
        if at is None and (piece.content or (piece.finish and not output)):
            at = len(output)
            spot = {"item_id": item, "output_index": at, "content_index": 0}
            yield {
                "type": "response.output_item.added",
                "output_index": at,
                "item": _message(item, "", "in_progress"),
            }
            yield {"type": "response.content_part.added", **spot, "part": _part("")}
        if piece.content:
            text += piece.content
            yield {"type": "response.output_text.delta", **spot, "delta": piece.content, "logprobs": []}
        for call in piece.calls:
            place = len(output) + (at is not None)
            output.append(_function(call))
            for told in _called(output[-1], place):
                yield told
        finish = piece.finish or finish
    cut = finish == "length"
    status = "incomplete" if cut else "completed"
    if at is not None:
        message = _message(item, text, status)
        yield {"type": "response.output_text.done", **spot, "text": text, "logprobs": []}
        yield {"type": "response.content_part.done", **spot, "part": _part(text)}
        yield {"type": "response.output_item.done", "output_index": at, "item": message}
        output.insert(at, message)
    final = _described(service, body, name, output, status) | {"usage": _usage(job.usage)}
    final["incomplete_details"] = {"reason": "max_output_tokens"} if cut else None
    yield {"type": f"response.{status}", "response": final}
