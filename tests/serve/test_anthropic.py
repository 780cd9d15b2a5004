"""Anthropic's own client against a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from served import Served

if TYPE_CHECKING:
    import anthropic  # takes seconds, which who only collects the tests need not wait for

ASK: list[Any] = [{"role": "user", "content": "the cat sees the red ball"}]
TOOL: Any = {
    "name": "paint",
    "description": "Paints the ball.",
    "input_schema": {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "green"]}},
        "required": ["colour"],
        "additionalProperties": False,
    },
}


@pytest.fixture
def client(served: Served) -> Iterator[anthropic.Anthropic]:
    import anthropic

    with anthropic.Anthropic(base_url=served.root, api_key="x", max_retries=0) as client:
        yield client


def text_of(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def test_a_message_whole_and_streamed_is_the_same(client: anthropic.Anthropic) -> None:
    whole = client.messages.create(model="tiny", max_tokens=12, messages=ASK, system="be brief")
    assert whole.stop_reason == "max_tokens"
    assert whole.usage.output_tokens == 12
    with client.messages.stream(model="tiny", max_tokens=12, messages=ASK, system="be brief") as stream:
        pieces = list(stream.text_stream)
        final = stream.get_final_message()
    assert "".join(pieces) == text_of(whole) == text_of(final)
    assert final.stop_reason == "max_tokens"
    assert final.usage.output_tokens == 12


def test_tokens_are_counted_as_they_are_read(client: anthropic.Anthropic) -> None:
    counted = client.messages.count_tokens(model="tiny", messages=ASK, system="be brief").input_tokens
    usage = client.messages.create(model="tiny", max_tokens=1, messages=ASK, system="be brief").usage
    assert usage.input_tokens + (usage.cache_read_input_tokens or 0) == counted


def test_a_stop_sequence_is_named(client: anthropic.Anthropic) -> None:
    free = text_of(client.messages.create(model="tiny", max_tokens=12, messages=ASK))
    stop = next(c for c in free if c.isprintable() and not c.isspace())
    cut = client.messages.create(model="tiny", max_tokens=12, messages=ASK, stop_sequences=[stop])
    assert (cut.stop_reason, cut.stop_sequence) == ("stop_sequence", stop)
    assert text_of(cut) == free[: free.index(stop)]


def test_tools_are_used_and_answered(client: anthropic.Anthropic) -> None:
    asked: dict[str, Any] = dict(
        model="tiny", max_tokens=100, messages=ASK, tools=[TOOL],
        tool_choice={"type": "tool", "name": "paint", "disable_parallel_tool_use": True},
    )  # fmt: skip
    whole = client.messages.create(**asked)
    assert whole.stop_reason == "tool_use"
    call = whole.content[0]
    assert call.type == "tool_use"
    assert call.input["colour"] in ("red", "green")
    with client.messages.stream(**asked) as stream:
        streamed = stream.get_final_message().content[0]
    assert streamed.type == "tool_use"
    assert streamed.input == call.input
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "done"}]}
    turns = [*ASK, {"role": "assistant", "content": whole.model_dump()["content"]}, result]
    after = client.messages.create(model="tiny", max_tokens=3, messages=turns, tools=[TOOL])
    assert after.usage.output_tokens == 3


def test_errors_have_their_shape(client: anthropic.Anthropic) -> None:
    import anthropic

    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(model="other", max_tokens=3, messages=ASK)
    with pytest.raises(anthropic.BadRequestError) as refused:
        client.messages.create(model="tiny", max_tokens=3, messages=[])
    assert refused.value.body["type"] == "error"  # type: ignore[index]


def test_asynchronous(served: Served) -> None:
    import anthropic

    async def ask() -> tuple[str, str]:
        async with anthropic.AsyncAnthropic(base_url=served.root, api_key="x", max_retries=0) as client:
            whole = await client.messages.create(model="tiny", max_tokens=8, messages=ASK)
            async with client.messages.stream(model="tiny", max_tokens=8, messages=ASK) as stream:
                return text_of(whole), await stream.get_final_text()

    whole, streamed = asyncio.run(ask())
    assert whole == streamed
