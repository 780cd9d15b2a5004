"""What is refused, with which status and which field named; and what one client cannot do to the others."""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from random_models import random_model
from served import Served

from trivium.recipe.network import Generation
from trivium.serve.engines import Limits
from trivium.serve.keys import Keys, add
from trivium.serve.local import TorchEngine
from trivium.text.chat import ChatTokenizer

USER = {"role": "user", "content": "the cat"}
CHAT = "/v1/chat/completions"


def post(served: Served, path: str, body: Any, **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=600)
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request("POST", path, data, {"Content-Type": "application/json", **headers})
    response = connection.getresponse()
    answer = response.read()
    connection.close()
    return response.status, json.loads(answer) if answer.startswith(b"{") else answer


def get(served: Served, path: str, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=600)
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    answer = response.read()
    connection.close()
    return response.status, answer


def chat(**changes: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [USER], "max_tokens": 3, **changes}


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"stop": 5}, "stop"),
        ({"stop": ["a", 5]}, "stop"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, None),
        ({"top_logprobs": 99, "logprobs": True}, "top_logprobs"),
        ({"top_logprobs": 2}, None),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"n": 1000}, "n"),
        ({"logit_bias": {"99999": 1}}, "logit_bias"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"7": 1000}}, "logit_bias.7"),
        ({"tool_choice": "required"}, None),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"stream_options": {"include_usage": True}}, None),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages"),
    ],
)
def test_what_means_nothing_is_a_400_that_names_the_field(
    served: Served, changes: Any, param: str | None
) -> None:
    status, answer = post(served, CHAT, chat(**changes))
    assert status == 400, answer
    assert answer["error"]["type"] == "invalid_request_error"
    assert param is None or answer["error"]["param"] == param


def test_fields_that_nobody_knows_are_let_pass(served: Served) -> None:
    assert post(served, CHAT, chat(frobnicate=1, metadata={"a": "b"}, store=False))[0] == 200


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b"[]", b'"x"', b"[" * 100_000, b'{"model": NaN}', b""])
def test_bodies_that_are_no_request(served: Served, body: bytes) -> None:
    status, answer = post(served, CHAT, body)
    assert status == 400
    assert answer["error"]["message"]


def test_unknown_models_and_places(served: Served) -> None:
    assert post(served, CHAT, chat(model="gpt-9"))[0] == 404
    assert post(served, "/v1/nothing", {})[0] == 404
    assert get(served, CHAT)[0] == 405


def test_a_prompt_that_does_not_fit_is_told_both_numbers_and_never_cut(served: Served) -> None:
    system = {"role": "system", "content": "The code word is tern-41"}
    text = "a"
    count = post(served, "/tokenize", {"messages": [system, {**USER, "content": text}]})[1]["count"]
    room = served.service.room
    fits = "a" + "Q" * (room - 1 - count)  # a letter that no merge has
    counted = post(served, "/tokenize", {"messages": [system, {**USER, "content": fits}]})[1]["count"]
    assert counted == room - 1
    status, answer = post(served, CHAT, chat(messages=[system, {**USER, "content": fits}], max_tokens=50))
    assert status == 200
    assert answer["usage"]["prompt_tokens"] == room - 1
    assert answer["choices"][0]["finish_reason"] in ("length", "stop")
    status, answer = post(served, CHAT, chat(messages=[system, {**USER, "content": fits + "QQ"}]))
    assert status == 400
    assert answer["error"]["code"] == "context_length_exceeded"
    assert str(room) in answer["error"]["message"]
    assert str(room + 1) in answer["error"]["message"]


HOSTILE = [
    {"type": "notatype"},
    {"enum": []},
    {"$ref": "https://example.org/x"},
    {"type": "array", "items": {"enum": [1, 2]}, "uniqueItems": True, "minItems": 2},
    {"oneOf": [{"type": "integer", "minimum": 0}, {"type": "integer", "maximum": 5}]},
    {"type": "string", "pattern": "(a+)+$"},
]


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(depth):
        schema = {
            "type": "object",
            "properties": {"a": schema},
            "required": ["a"],
            "additionalProperties": False,
        }
    return schema


def test_a_bad_schema_harms_nobody(served: Served) -> None:
    """Three replies under way say what they say alone, whatever schemas come meanwhile."""
    asks = [
        chat(messages=[{**USER, "content": f"the {word}"}], max_tokens=120, stream=True)
        for word in ("cat", "dog", "ball")
    ]

    def events(ask: dict[str, Any]) -> list[bytes]:
        """The bytes of a stream, without what no two have in common."""
        lines = post(served, CHAT, ask)[1].splitlines()
        return [re.sub(rb'"(id|created)":("[^"]*"|\d+)', b"", line) for line in lines]

    alone = [events(ask) for ask in asks]
    assert all(stream[-2:] == [b"data: [DONE]", b""] for stream in alone)
    beside: list[Any] = [None] * 3

    def again(number: int) -> None:
        beside[number] = events(asks[number])

    threads = [threading.Thread(target=again, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for schema in (*HOSTILE, nested(200)):
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        status, answer = post(served, CHAT, chat(response_format=form, max_tokens=20))
        assert status in (200, 400), (schema, answer)
        if "uniqueItems" in schema or "oneOf" in schema:
            assert status == 400
            assert (
                next(word for word in ("uniqueItems", "oneOf") if word in schema)
                in answer["error"]["message"]
            )
    for thread in threads:
        thread.join()
    assert beside == alone


def test_large_and_foreign_requests(served: Served) -> None:
    assert post(served, CHAT, b" " * (served.service.limits.body + 1))[0] == 413
    assert post(served, CHAT, chat(), Origin="https://example.org")[0] == 403
    assert post(served, CHAT, chat(), Origin=served.root)[0] == 200


def wait_for(condition: Any) -> None:
    pause = threading.Event()
    for _ in range(3000):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("it never came")


@pytest.fixture
def slow(chat: ChatTokenizer) -> Any:
    """A server with room for one sequence whose replies are long."""
    usual = Generation(temperature=0.0, max_new_tokens=8000)
    service = TorchEngine(
        random_model(context=8192), chat, "tiny", usual, Limits(tokens=8192, running=1, queue=2)
    )
    service.grammars  # noqa: B018
    server = Served(service)
    yield server
    server.close()


def leave(served: Served, body: dict[str, Any], chunks: int = 0) -> socket.socket:
    """Asks, reads so many events, and gives the open connection."""
    data = json.dumps(body).encode()
    connection = socket.create_connection(("127.0.0.1", served.port))
    head = f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(data)}\r\n\r\n"
    connection.sendall(head.encode() + data)
    with connection.makefile("rb") as reader:
        for _ in range(chunks):
            while not reader.readline().startswith(b"data:"):
                pass
    return connection


def test_clients_that_leave_free_what_they_had(slow: Served) -> None:
    endless = chat(max_tokens=7000, stream=True, logit_bias={"40": 100})
    batcher = slow.service.batcher
    assert batcher is not None
    first = leave(slow, endless, chunks=3)
    waiting = [leave(slow, endless) for _ in range(2)]
    wait_for(lambda: slow.service.active == 3)
    assert post(slow, CHAT, endless)[0] == 429
    for connection in waiting:  # while they wait: no token is made for them
        connection.close()
    wait_for(lambda: slow.service.active == 1)
    before = batcher.counters.prompt_tokens
    first.close()
    wait_for(lambda: slow.service.active == 0)
    assert batcher.counters.prompt_tokens == before
    assert batcher.blocks.available == batcher.blocks.total
    assert post(slow, CHAT, chat())[0] == 200


def test_a_server_that_drains_finishes_and_takes_no_more(slow: Served) -> None:
    endless = leave(slow, chat(max_tokens=7000, stream=True, logit_bias={"40": 100}), chunks=2)
    assert get(slow, "/ready")[0] == 200
    slow.service.draining = True
    assert get(slow, "/ready")[0] == 503
    assert get(slow, "/health")[0] == 200
    assert post(slow, CHAT, chat())[0] == 503
    assert slow.service.active == 1
    endless.close()


def test_deadlines(chat: ChatTokenizer) -> None:
    service = TorchEngine(random_model(context=8192), chat, "tiny", None, Limits(tokens=8192, deadline=0.2))
    server = Served(service)
    body = {"model": "tiny", "messages": [USER], "max_tokens": 8000, "logit_bias": {"40": 100}}
    assert post(server, CHAT, body)[0] == 504
    wait_for(lambda: service.active == 0)
    server.close()


def test_keys(chat: ChatTokenizer, tmp_path: Path) -> None:
    key = add(tmp_path / "keys", "alice")
    assert key not in (tmp_path / "keys").read_text()
    service = TorchEngine(random_model(context=512), chat, "tiny", None, Limits(tokens=512))
    server = Served(service, keys=Keys(tmp_path / "keys"))
    body = {"model": "tiny", "messages": [USER], "max_tokens": 1}
    assert post(server, CHAT, body)[0] == 401
    assert post(server, CHAT, body, Authorization=f"Bearer {key}x")[0] == 401
    assert post(server, CHAT, body, Authorization=f"Bearer {key}")[0] == 200
    assert post(server, "/v1/messages/count_tokens", body, **{"x-api-key": key})[0] == 200
    assert get(server, "/metrics")[0] == 401
    assert get(server, "/health")[0] == 200
    server.close()


def test_no_name_but_our_own_where_there_are_no_keys(chat: ChatTokenizer) -> None:
    service = TorchEngine(random_model(context=512), chat, "tiny", None, Limits(tokens=512))
    server = Served(service, hosts=frozenset({"localhost", "127.0.0.1"}))
    assert get(server, "/v1/models")[0] == 200
    assert get(server, "/v1/models", Host="rebound.example.org")[0] == 403
    server.close()


def test_metrics_have_the_names_that_dashboards_read(served: Served) -> None:
    long = chat(messages=[{**USER, "content": "the old book in the garden " * 6}])
    post(served, CHAT, long)
    post(served, CHAT, long)
    page = get(served, "/metrics")[1].decode()
    lines = dict(line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
    label = '{model_name="tiny"}'
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "num_preemptions_total",
                 "time_to_first_token_seconds_count", "inter_token_latency_seconds_count",
                 "e2e_request_latency_seconds_count", "prompt_tokens_total", "generation_tokens_total"):  # fmt: skip
        assert f"vllm:{name}{label}" in lines
    assert (
        0
        < float(lines[f"vllm:prefix_cache_hits_total{label}"])
        < float(lines[f"vllm:prefix_cache_queries_total{label}"])
    )


def test_logs_hold_no_word_of_what_was_asked(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG"):
        post(served, CHAT, chat(messages=[{**USER, "content": "xyzzy-secret"}]))
        post(served, CHAT, chat(messages=[{**USER, "content": "xyzzy-secret"}], temperature=-1))
    assert CHAT in caplog.text
    assert "xyzzy" not in caplog.text
