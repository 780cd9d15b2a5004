"""What clients may send, in OpenAI's words. Fields that nobody here knows are let pass; values that mean nothing are refused."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from trivium.serve.problems import ApiError

Count = Annotated[int, Field(ge=1)]
Stop = str | Annotated[list[str], Field(max_length=16)] | None
Body = TypeVar("Body", bound="Wire")


class Wire(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class Sampled(Wire):
    """How a reply is drawn."""

    model: str
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    max_tokens: Count | None = None
    stop: Stop = None
    n: Annotated[int, Field(ge=1, le=128)] | None = 1
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    stream: bool | None = False
    user: str | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(text for text in given if text)


class StreamOptions(Wire):
    include_usage: bool = False


class Function(Wire):
    name: Annotated[str, Field(pattern="^[a-zA-Z0-9_.-]{1,128}$")]
    description: str | None = None
    parameters: dict[str, JsonValue] | None = None
    strict: bool | None = None


class Tool(Wire):
    type: Literal["function"]
    function: Function


class Named(Wire):
    name: str


class ToolChoice(Wire):
    type: Literal["function"]
    function: Named


class CalledFunction(Wire):
    name: str
    arguments: str


class ToolCall(Wire):
    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction


class TextPart(Wire):
    type: Literal["text", "input_text", "output_text"]
    text: str


class Message(Wire):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    name: str | None = None
    reasoning_content: str | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Message:
        if self.content is None and not (self.role == "assistant" and self.tool_calls):
            raise ValueError("a message needs `content`")
        if self.tool_calls and self.role != "assistant":
            raise ValueError("only the assistant has `tool_calls`")
        return self

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class JsonSchema(Wire):
    name: str
    schema_: Annotated[dict[str, JsonValue], Field(alias="schema")]
    strict: bool | None = None


class ResponseFormat(Wire):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> ResponseFormat:
        if self.type == "json_schema" and self.json_schema is None:
            raise ValueError("json_schema needs `json_schema`")
        return self


class ChatBody(Sampled):
    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    stream_options: StreamOptions | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = True
    response_format: ResponseFormat | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> ChatBody:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("`top_logprobs` needs `logprobs: true`")
        if self.tool_choice not in (None, "none", "auto") and not self.tools:
            raise ValueError("`tool_choice` needs `tools`")
        names = [tool.function.name for tool in self.tools or ()]
        if isinstance(self.tool_choice, ToolChoice) and self.tool_choice.function.name not in names:
            raise ValueError(
                f"`tool_choice` names {self.tool_choice.function.name!r}, which is not in `tools`"
            )
        if self.stream_options is not None and not self.stream:
            raise ValueError("`stream_options` needs `stream: true`")
        return self

    @property
    def limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens


class CompletionBody(Sampled):
    prompt: str | list[str] | list[int] | list[list[int]]
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = False
    suffix: str | None = None
    best_of: int | None = None
    stream_options: StreamOptions | None = None

    @model_validator(mode="after")
    def _is_served(self) -> CompletionBody:
        if self.suffix:
            raise ValueError("`suffix` is not served")
        if self.best_of not in (None, 1, self.n):
            raise ValueError("`best_of` is not served")
        if self.echo and self.logprobs is not None:
            raise ValueError("`echo` with `logprobs` is not served")
        return self


class TokenizeBody(Wire):
    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = None
    add_special_tokens: bool = True

    @model_validator(mode="after")
    def _has_one(self) -> TokenizeBody:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give `prompt` or `messages`")
        return self


class FeedbackBody(Wire):
    """What somebody thinks of a reply: a row that sources of feedback read."""

    model: str | None = None
    prompt: Annotated[list[Message], Field(min_length=1)]
    completion: Annotated[str, Field(min_length=1)]
    label: bool
    reason: Annotated[str, Field(max_length=2000)] | None = None

    def row(self, model: str, client: str | None) -> str:
        """A line of JSON for KTO: a label of a reply, why, of which model, and by whom."""
        turns = [{"role": message.role, "content": message.text} for message in self.prompt]
        said = {"prompt": turns, "completion": self.completion, "label": self.label}
        about = {"reason": self.reason or "", "model": model, "client": client}
        return json.dumps({**said, **about}, ensure_ascii=False)


class TraceBody(Wire):
    """A reply to be looked for in what its model was trained on."""

    model: str | None = None
    reply: Annotated[str, Field(min_length=1, max_length=20_000)]


def parsed(raw: bytes) -> dict[str, Any]:
    """A request's JSON. ApiError 400 for what is none, and no object."""
    try:
        value = json.loads(raw, parse_constant=_no_number)
    except UnicodeDecodeError as error:
        raise ApiError(400, f"the body is no UTF-8: {error.reason}", code="invalid_json") from None
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is no JSON: {error}", code="invalid_json") from None
    if not isinstance(value, dict):
        raise ApiError(400, "the body must be a JSON object", code="invalid_json")
    return value


def read(kind: type[Body], raw: bytes) -> Body:
    """A request's body. ApiError 400 that names the first field that is wrong."""
    return checked(kind, parsed(raw))


def event(value: dict[str, Any], name: str | None = None) -> str:
    """One server-sent event."""
    first = "" if name is None else f"event: {name}\n"
    return f"{first}data: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}\n\n"


def checked(kind: type[Body], value: dict[str, Any]) -> Body:
    """What a request means. ApiError 400 that names the first field that is wrong."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = min(error.errors(include_url=False), key=lambda e: len(e["loc"]) == 0)
        places = [str(part) for part in first["loc"] if not _branch(part)]
        where, said = ".".join(places), first["msg"].removeprefix("Value error, ")
        shown = "" if isinstance(first["input"], dict | list) else f" (it is {first['input']!r:.60})"
        raise ApiError(400, f"{where}: {said}{shown}" if where else said, param=where or None) from None


def _branch(part: str | int) -> bool:
    """Pydantic names the member of a union that it tried."""
    return isinstance(part, str) and (
        part in ("str", "ToolChoice") or part.startswith(("list[", "literal[", "constrained"))
    )


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no JSON")
