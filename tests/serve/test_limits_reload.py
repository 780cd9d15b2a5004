"""What a key may have; spans; weights that are loaded again under replies."""

from __future__ import annotations

import asyncio
import http.client
import json
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI
from random_models import random_model
from served import Served

from trivium.errors import ArtifactError, DataError
from trivium.recipe.network import Generation
from trivium.serve.engines import Limits
from trivium.serve.keys import Keys, add
from trivium.serve.local import TorchEngine
from trivium.serve.server import Reloading
from trivium.text.chat import ChatTokenizer

BODY = {"model": "tiny", "messages": [{"role": "user", "content": "the cat"}], "max_tokens": 4}


def ask(served: Served, key: str, **changes: Any) -> tuple[int, str | None, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=600)
    connection.request(
        "POST", "/v1/chat/completions", json.dumps({**BODY, **changes}), {"Authorization": f"Bearer {key}"}
    )
    response = connection.getresponse()
    answer, wait = response.read().decode(), response.getheader("Retry-After")
    connection.close()
    return response.status, wait, answer


@pytest.mark.parametrize("stream", [False, True])
def test_a_key_has_its_requests_and_its_tokens_and_no_more(
    service: TorchEngine, tmp_path: Path, stream: bool
) -> None:
    few = add(tmp_path / "keys", "few", requests="2/day")
    short = add(tmp_path / "keys", "short", tokens="5/day")
    usual = add(tmp_path / "keys", "usual")
    engine = TorchEngine(service.model, service.chat, "tiny", None, Limits(tokens=512))
    served = Served(engine, keys=Keys(tmp_path / "keys", requests="3/day"))
    found = [[ask(served, key, stream=stream)[0] for _ in range(4)] for key in (few, short, usual)]
    assert found == [[200, 200, 429, 429], [200, 429, 429, 429], [200, 200, 200, 429]]
    _, wait, answer = ask(served, few)
    assert json.loads(answer)["error"]["code"] == "rate_limit_exceeded"
    assert wait is not None
    assert 0 < int(wait) <= 86400
    served.close()


def test_limits_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no limit"):
        add(tmp_path / "keys", "few", requests="often")
    add(tmp_path / "keys", "few")
    with pytest.raises(DataError, match="no limit"):
        Keys(tmp_path / "keys", tokens="many/never")


def other(chat: ChatTokenizer, metrics: Any, seed: int) -> TorchEngine:
    usual = Generation(temperature=0.0, max_new_tokens=24)
    return TorchEngine(
        random_model(context=512, seed=seed), chat, "tiny", usual, Limits(tokens=2048), metrics=metrics
    )


def test_weights_are_loaded_again_and_no_stream_is_dropped(chat: ChatTokenizer) -> None:
    """A reply that has begun is written to its end by the weights that began it; the next one comes from the new ones."""
    served = Served(other(chat, None, 0))
    old = served.service
    client = OpenAI(base_url=served.url, api_key="x", timeout=600)
    more: dict[str, Any] = {
        "model": "tiny",
        "messages": BODY["messages"],
        "max_tokens": 100,
        "logit_bias": {"40": 100},
    }
    whole = client.chat.completions.create(**more).choices[0].message.content
    before = client.chat.completions.create(**BODY).choices[0].message.content  # type: ignore[call-overload]
    reloading = Reloading(served.web, lambda metrics: other(chat, metrics, 1))
    loop = asyncio.new_event_loop()
    stream = client.chat.completions.create(**more, stream=True)
    text = next(iter(stream)).choices[0].delta.content or ""
    assert loop.run_until_complete(_reload(reloading, served))
    text += "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text == whole
    assert served.web.engine is not old
    assert client.chat.completions.create(**BODY).choices[0].message.content != before  # type: ignore[call-overload]
    assert f'generation_tokens_total{{model_name="tiny"}} {200 + 2 * 4:.1f}' in old.metrics.page().decode()

    def damaged(metrics: Any) -> Any:
        raise ArtifactError("it is damaged")

    now, reloading.make = served.web.engine, damaged
    assert not loop.run_until_complete(_reload(reloading, served))
    assert served.web.engine is now
    loop.close()
    client.close()
    served.close()


async def _reload(reloading: Reloading, served: Served) -> bool:
    """In the loop of the server, as the signal does it."""
    loop = served.web.engine._loop  # type: ignore[attr-defined]
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(reloading.reload(), loop))


def test_two_models_are_asked_by_their_names_and_counted_apart(chat: ChatTokenizer) -> None:
    first, second = other(chat, None, 0), other(chat, None, 1)
    second.name = "second"
    served = Served(first, beside=second)
    client = OpenAI(base_url=served.url, api_key="x", timeout=600)
    assert [model.id for model in client.models.list().data] == ["tiny", "second"]
    assert client.models.retrieve("second").id == "second"
    replies = [
        client.chat.completions.create(**{**BODY, "model": name}).choices[0].message.content  # type: ignore[call-overload]
        for name in ("tiny", "second", "second")
    ]
    assert replies[0] != replies[1] == replies[2]
    page = first.metrics.page().decode()
    for name, count in (("tiny", 4), ("second", 8)):
        assert f'generation_tokens_total{{model_name="{name}"}} {count:.1f}' in page
    assert page.count("# TYPE vllm:generation_tokens_total") == 1
    assert ask(served, "", model="third")[0] == 404
    client.close()
    served.close()


def test_spans_say_what_a_request_cost_and_no_word_of_it(served: Served) -> None:
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    kept = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    trace.set_tracer_provider(provider)
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    for stream in (False, True):
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=600)
        body = json.dumps({**BODY, "stream": stream, "messages": [{"role": "user", "content": "xyzzy"}]})
        connection.request("POST", "/v1/chat/completions", body, {"traceparent": parent})
        connection.getresponse().read()
        connection.close()
    served.web.engine.wake()  # type: ignore[attr-defined]
    while len(kept.get_finished_spans()) < 2:
        pass
    for span in kept.get_finished_spans():
        assert span.context.trace_id == int("0af7651916cd43dd8448eb211c80319c", 16)
        assert span.name == "chat tiny"
        assert span.attributes["gen_ai.usage.output_tokens"] == 4
        assert span.attributes["gen_ai.usage.input_tokens"] > 0
        assert span.attributes["http.response.status_code"] == 200
        assert "xyzzy" not in span.to_json()
