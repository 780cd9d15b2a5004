"""OpenAI's own client against a real server: whole, streamed, asynchronous."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from served import Served

if TYPE_CHECKING:
    import openai  # takes seconds, which who only collects the tests need not wait for

ASK: list[Any] = [{"role": "user", "content": "the cat sees the red ball"}]


@pytest.fixture
def client(served: Served) -> Iterator[openai.OpenAI]:
    import openai

    with openai.OpenAI(base_url=served.url, api_key="x", max_retries=0) as client:
        yield client


def test_models(client: openai.OpenAI) -> None:
    import openai

    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_a_chat_whole_and_streamed_is_the_same(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="tiny", messages=ASK, max_completion_tokens=12)
    assert whole.usage is not None
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage.completion_tokens == 12
    chunks = list(
        client.chat.completions.create(
            model="tiny", messages=ASK, max_tokens=12, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None] * (len(chunks) - 2) + ["length"]
    assert chunks[-2].choices[0].delta.content is None
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 12


def test_choices_stops_and_log_probabilities_streamed_as_whole(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = dict(
        model="tiny", messages=ASK, n=2, seed=7, temperature=1.0, stop=["e", "é"], max_tokens=40, logprobs=True,
        top_logprobs=3,
    )  # fmt: skip
    whole = client.chat.completions.create(**asked)
    text, finish, tokens = ["", ""], [[], []], [[], []]
    for chunk in client.chat.completions.create(**asked, stream=True):
        choice = chunk.choices[0]
        text[choice.index] += choice.delta.content or ""
        finish[choice.index].append(choice.finish_reason)
        if choice.logprobs and choice.logprobs.content:
            tokens[choice.index] += [token.logprob for token in choice.logprobs.content]
    for choice in whole.choices:
        assert text[choice.index] == choice.message.content
        assert "e" not in text[choice.index]
        assert finish[choice.index][-1] == choice.finish_reason
        assert set(finish[choice.index][:-1]) == {None}
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        assert tokens[choice.index] == pytest.approx([t.logprob for t in choice.logprobs.content], abs=1e-4)
        assert all(len(t.top_logprobs) == 3 for t in choice.logprobs.content)
    assert text[0] != text[1]


def test_json_of_a_schema(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {
            "colour": {"enum": ["red", "green"]},
            "count": {"type": "integer", "minimum": 1, "maximum": 99},
        },
        "required": ["colour", "count"],
        "additionalProperties": False,
    }
    form: Any = {"type": "json_schema", "json_schema": {"name": "ball", "schema": schema, "strict": True}}
    reply = client.chat.completions.create(model="tiny", messages=ASK, response_format=form, max_tokens=60)
    value = json.loads(reply.choices[0].message.content or "")
    assert value["colour"] in ("red", "green")
    assert 1 <= value["count"] <= 99
    assert reply.choices[0].finish_reason == "stop"


TOOL = {
    "type": "function",
    "function": {
        "name": "paint",
        "description": "Paints the ball.",
        "parameters": {
            "type": "object",
            "properties": {"colour": {"enum": ["red", "green"]}},
            "required": ["colour"],
            "additionalProperties": False,
        },
    },
}


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "paint"}}])
def test_a_forced_call_fits_its_tool_whole_and_streamed(client: openai.OpenAI, choice: Any) -> None:
    asked: dict[str, Any] = dict(
        model="tiny",
        messages=ASK,
        tools=[TOOL],
        tool_choice=choice,
        parallel_tool_calls=False,
        max_tokens=100,
    )
    whole = client.chat.completions.create(**asked).choices[0]
    assert whole.finish_reason == "tool_calls"
    assert whole.message.tool_calls is not None
    call = whole.message.tool_calls[0]
    assert call.type == "function"
    assert call.function.name == "paint"
    assert json.loads(call.function.arguments)["colour"] in ("red", "green")
    chunks = [c.choices[0] for c in client.chat.completions.create(**asked, stream=True)]
    deltas = [delta for chunk in chunks for delta in chunk.delta.tool_calls or ()]
    assert deltas[0].type == "function"
    assert deltas[0].id
    assert deltas[0].function is not None
    assert deltas[0].function.name == "paint"
    assert "".join(d.function.arguments or "" for d in deltas if d.function) == call.function.arguments
    assert chunks[-1].finish_reason == "tool_calls"

    turn = whole.message.model_dump(exclude_none=True)
    result = {"role": "tool", "tool_call_id": call.id, "content": "done"}
    after = client.chat.completions.create(
        model="tiny", messages=[*ASK, turn, result], tools=[TOOL], max_tokens=5
    )
    assert after.usage is not None
    assert after.usage.prompt_tokens > 0


def test_completions_of_texts_and_of_ids(client: openai.OpenAI, served: Served) -> None:
    ids = served.service.chat.guard.plain("the cat")
    both = client.completions.create(model="tiny", prompt=["the cat", "a dog"], max_tokens=6, n=2, logprobs=2)
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
    by_ids = client.completions.create(model="tiny", prompt=ids, max_tokens=6)
    assert by_ids.choices[0].text == both.choices[0].text
    assert both.choices[0].logprobs is not None
    assert len(both.choices[0].logprobs.tokens or []) == 6
    streamed = client.completions.create(model="tiny", prompt="the cat", max_tokens=6, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == by_ids.choices[0].text


def test_bias_is_obeyed(client: openai.OpenAI, served: Served) -> None:
    token = served.service.chat.guard.plain("Q")[0]
    reply = client.chat.completions.create(
        model="tiny", messages=ASK, logit_bias={str(token): 100}, max_tokens=4
    )
    assert reply.choices[0].message.content == "QQQQ"


def test_asynchronous_clients_share_the_model(served: Served) -> None:
    import openai

    async def ask(client: openai.AsyncOpenAI, words: str) -> str:
        reply = await client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": words}], max_tokens=10
        )
        streamed = await client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": words}], max_tokens=10, stream=True
        )
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in streamed])
        assert text == reply.choices[0].message.content
        return text

    async def everyone() -> list[str]:
        async with openai.AsyncOpenAI(base_url=served.url, api_key="x", max_retries=0) as client:
            return await asyncio.gather(
                *(ask(client, f"the {word}") for word in ("cat", "dog", "ball", "book") * 3)
            )

    replies = asyncio.run(everyone())
    assert replies[:4] == replies[4:8] == replies[8:]


def test_responses_whole_and_streamed(client: openai.OpenAI) -> None:
    whole = client.responses.create(
        model="tiny", input="the cat", instructions="be brief", max_output_tokens=9
    )
    assert whole.status == "incomplete"
    assert whole.usage is not None
    assert whole.usage.output_tokens == 9
    with client.responses.stream(
        model="tiny", input="the cat", instructions="be brief", max_output_tokens=9
    ) as stream:
        kinds = [event.type for event in stream]
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.incomplete"
    streamed = client.responses.create(
        model="tiny", input="the cat", instructions="be brief", max_output_tokens=9, stream=True
    )
    assert "".join(e.delta for e in streamed if e.type == "response.output_text.delta") == whole.output_text


def test_a_call_as_a_response(client: openai.OpenAI) -> None:
    tool: Any = {"type": "function", **TOOL["function"], "strict": True}  # type: ignore[dict-item]
    reply = client.responses.create(model="tiny", input="paint", tools=[tool], tool_choice="required",
                                    parallel_tool_calls=False, max_output_tokens=100)  # fmt: skip
    assert [item.type for item in reply.output] == ["function_call"]
    assert reply.status == "completed"
