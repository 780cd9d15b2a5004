"""From what a client asked to sequences of the engine: the prompt, how it is drawn, what it must be."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from trivium.errors import DataError
from trivium.generate.batcher import Constraint, Request
from trivium.generate.constrain import Matcher
from trivium.generate.sampling import SamplingParams
from trivium.seeds import derive
from trivium.serve import tools as calling
from trivium.serve.engines import check_model
from trivium.serve.problems import ApiError
from trivium.serve.service import Job, Service
from trivium.serve.wire import ChatBody, Message, Sampled
from trivium.serve.words import Choice


@dataclass(frozen=True)
class Asked:
    """A request of any API, in the engine's words."""

    prompts: Sequence[list[int]]
    body: Sampled
    limit: int | None = (
        None  # tokens of a reply; None: as the checkpoint says, at most what the context leaves
    )
    top: int = 0
    constraint: Callable[[], Matcher] | None = None
    schema: Mapping[str, Any] | None = None  # of the whole reply
    names: frozenset[str] = frozenset()  # of the tools that may be called
    forced: bool = False  # calls, and nothing else
    matchers: list[Matcher] = field(default_factory=list)


def chat_prompt(
    service: Service, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]
) -> list[int]:
    """The ids of a conversation. ApiError 400 for one that the template refuses."""
    turns: list[dict[str, Any]] = []
    for message in messages:
        turn = message.model_dump(exclude_none=True, include={"role", "tool_calls", "tool_call_id", "name"})
        turn["content"] = message.text
        turn["role"] = "system" if message.role == "developer" else message.role
        if message.reasoning_content is not None:
            turn["reasoning_content"] = message.reasoning_content
        turns.append(turn)
    chat = service.chat
    template = (chat.tool_template if tools and chat.tool_template else chat.template) or ""
    writes = "tools" in template and "tool_calls" in template
    rich = bool(tools) or any(turn["role"] == "tool" or turn.get("tool_calls") for turn in turns)
    try:
        if rich and not writes:
            return chat.prompt(calling.told([_plain(turn) for turn in turns], tools))
        return chat.prompt([turn if writes else _plain(turn) for turn in turns], list(tools) or None)
    except (DataError, ValueError) as error:
        what = error.what if isinstance(error, DataError) else str(error)
        raise ApiError(400, what, param="messages") from None


def _plain(turn: dict[str, Any]) -> dict[str, Any]:
    """Without the fields that only templates with tools read."""
    return {
        name: value
        for name, value in turn.items()
        if name not in ("name", "tool_call_id", "reasoning_content")
    }


def chat(service: Service, body: ChatBody) -> Asked:
    """ApiError for a model, a conversation, a schema or a tool that cannot be."""
    check_model(service, body.model)
    choice = body.tool_choice if body.tool_choice is not None else "auto"
    tools = [tool.model_dump(exclude_none=True) for tool in body.tools or ()] if choice != "none" else []
    for tool in tools:
        tool["function"].pop("strict", None)
        tool["function"].setdefault("parameters", {"type": "object", "properties": {}})
    prompt = chat_prompt(service, body.messages, tools)
    functions = [tool["function"] for tool in tools]
    if not isinstance(choice, str):
        functions = [function for function in functions if function["name"] == choice.function.name]
    schema, forced = _schema(body), not isinstance(choice, str) or choice == "required"
    constraint = None if schema is None else partial(service.grammars.schema, schema)
    if forced:
        most = calling.MOST if body.parallel_tool_calls is not False and choice == "required" else 1
        grammars, form = service.grammars, {"opening": calling.OPEN + "\n", "closing": "\n" + calling.CLOSE}
        constraint, schema = partial(grammars.calls, functions, most=most, **form), None
    top = (body.top_logprobs or 0) if body.logprobs else 0
    names = frozenset(function["name"] for function in functions)
    return Asked([prompt], body, body.limit, top, constraint, schema, names, forced)


def _schema(body: ChatBody) -> Mapping[str, Any] | None:
    form = body.response_format
    if form is None or form.type == "text":
        return None
    return {"type": "object"} if form.json_schema is None else form.json_schema.schema_


def submit(service: Service, asked: Asked) -> Job:
    """Puts what was asked in the queue. ApiError 400 for a prompt that does not fit and a schema that cannot be honoured."""
    body, stops = asked.body, frozenset(service.chat.stops)
    count = body.n or 1
    if len(asked.prompts) * count > 128:
        raise ApiError(
            400, f"{len(asked.prompts)} prompts with {count} choices each are more than 128", param="n"
        )
    seed = body.seed if body.seed is not None else secrets.randbits(62)
    requests = []
    for number, prompt in enumerate(asked.prompts):
        for choice in range(count):
            first = number == choice == 0
            drawn = _sampling(service, body, seed if first else derive(seed, "choice", number, choice))
            requests.append(
                Request(
                    prompt, drawn, _limit(service, prompt, asked.limit), stops=stops, top=asked.top,
                    bias=_bias(service, body), presence=body.presence_penalty or 0.0,
                    frequency=body.frequency_penalty or 0.0, constraint=_compiled(asked),
                )
            )  # fmt: skip
    return service.submit(
        requests,
        lambda index, send: Choice(index, service.chat.decode, send, stop=body.stops, endings=stops),
    )


def _compiled(asked: Asked) -> Constraint | None:
    if asked.constraint is None:
        return None
    try:
        matcher = asked.constraint()
    except DataError as error:
        param = "tools" if asked.forced else "response_format"
        raise ApiError(400, error.what, param=param, code="schema_not_supported") from None
    asked.matchers.append(matcher)
    return matcher


def _sampling(service: Service, body: Sampled, seed: int) -> SamplingParams:
    usual = service.generation
    temperature = usual.temperature if body.temperature is None else body.temperature
    top_k = usual.top_k if body.top_k is None else max(0, body.top_k)
    return SamplingParams(
        temperature=temperature,
        top_p=usual.top_p if body.top_p is None else body.top_p,
        top_k=top_k,
        min_p=body.min_p or 0.0,
        seed=seed,
    )


def _limit(service: Service, prompt: Sequence[int], limit: int | None) -> int:
    left = service.room - len(prompt)
    if left < 1:
        raise ApiError(
            400, f"the prompt has {len(prompt)} tokens; the context is {service.room} tokens, and the reply needs one",
            param="messages", code="context_length_exceeded",
        )  # fmt: skip
    if not prompt:
        raise ApiError(400, "the prompt is empty", param="prompt")
    return min(left, limit or service.generation.max_new_tokens)


def _bias(service: Service, body: Sampled) -> dict[int, float]:
    bias: dict[int, float] = {}
    for name, value in (body.logit_bias or {}).items():
        if not name.isascii() or not name.isdigit() or int(name) >= service.model.config.vocab_size:
            raise ApiError(400, f"logit_bias: {name!r:.40} is no id of a token", param="logit_bias")
        bias[int(name)] = value
    return bias
