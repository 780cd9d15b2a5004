"""Engines elsewhere: what they say comes through unchanged, and what they do wrong is an error of the right status."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_server import Server, raw
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import OpenAI
from served import Served

from trivium.cli import main
from trivium.deploy.export import write
from trivium.errors import ArtifactError
from trivium.imports import open_checkpoint
from trivium.serve import upstream
from trivium.serve.engines import Limits
from trivium.serve.llama import LlamaEngine
from trivium.serve.upstream import Upstream

USER = {"role": "user", "content": "the cat"}
CHAT = "/v1/chat/completions"


def post(served: Served, path: str, body: Any) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=600)
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = response.read().decode()
    connection.close()
    return response.status, answer


def chat(**changes: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [USER], "max_tokens": 9, "temperature": 0, **changes}


@pytest.fixture(scope="module")
def front(served: Served) -> Iterator[Served]:
    """A server whose engine is another server; the model has another name here."""
    server = Served(Upstream(served.url, "tiny", "ours"))
    yield server
    server.close()


BODIES = {
    CHAT: {"messages": [USER], "max_tokens": 9},
    "/v1/completions": {"prompt": "the cat", "max_tokens": 9},
    "/v1/responses": {"input": "the cat", "max_output_tokens": 9},
    "/v1/messages": {"messages": [USER], "max_tokens": 9},
    "/v1/messages/count_tokens": {"messages": [USER]},
    "/tokenize": {"prompt": "the cat"},
}


def said(text: str) -> str:
    """Without what no two answers have in common: identifiers, times, and what was found in the prefix cache."""
    values = [json.loads(line[6:]) if line.startswith("data: {") else line for line in text.splitlines()]

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            left_out = ("id", "created", "created_at", "item_id", "model", "usage")
            return {name: plain(inner) for name, inner in value.items() if name not in left_out}
        return [plain(inner) for inner in value] if isinstance(value, list) else value

    return json.dumps([plain(value) for value in values])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", BODIES)
def test_what_stands_in_front_changes_nothing(front: Served, served: Served, path: str, stream: bool) -> None:
    if stream and path in ("/v1/messages/count_tokens", "/tokenize"):
        pytest.skip("they do not stream")
    body = {**BODIES[path], "temperature": 0, **({"stream": True} if stream else {})}
    body = body if path not in ("/v1/messages/count_tokens", "/tokenize") else BODIES[path]
    status, answer = post(front, path, {**body, "model": "ours"})
    assert (status, post(served, path, {**body, "model": "tiny"})[0]) == (200, 200)
    direct = post(served, path, {**body, "model": "tiny"})[1]
    if stream:
        assert said(answer) == said(direct)
        assert '"tiny"' not in answer
    else:
        assert said("data: " + answer) == said("data: " + direct).replace('"tiny"', '"ours"')


def test_the_usage_chunk_comes_to_those_who_ask(front: Served) -> None:
    client = OpenAI(base_url=front.url, api_key="x")
    for asked in (False, True):
        more = {"stream_options": {"include_usage": True}} if asked else {}
        stream = client.chat.completions.create(
            model="ours", messages=[USER], max_tokens=5, stream=True, **more
        )  # type: ignore[call-overload]
        assert (list(stream)[-1].usage is not None) == asked
    client.close()


def test_what_is_strict_stays_so_in_front(front: Served) -> None:
    assert post(front, CHAT, chat(temperature=-1))[0] == 400
    assert post(front, CHAT, chat(model="other"))[0] == 404
    status, answer = post(front, CHAT, chat(model="ours", messages=[{**USER, "content": "Q" * 3000}]))
    error = json.loads(answer)["error"]
    assert (status, error["code"]) == (400, "context_length_exceeded")


def hang_up(handler: Any, body: Any) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def stream_of(*lines: str) -> bytes:
    return "".join(lines).encode()


CHUNK = 'data: {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": null}]}\n\n'


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (raw(b"no json"), 502),
        (raw(b"[1]"), 502),
        (hang_up, 502),
        (lambda h, b: h.send_error(500), 502),
        (raw(b'{"choices": []', length=4000), 502),
    ],
)
def test_an_engine_that_answers_wrongly_is_a_502(reply: Any, status: int) -> None:
    elsewhere = Server()
    elsewhere.plan = [reply]
    front = Served(Upstream(elsewhere.url, "tiny"))
    found, answer = post(front, CHAT, chat())
    assert found == status
    assert json.loads(answer)["error"]["code"] == "engine_failed"
    assert post(front, CHAT, chat(stream=True))[0] == status
    assert front.service.active == 0
    front.close()
    elsewhere.close()


@pytest.mark.parametrize(
    "reply",
    [
        raw(stream_of(CHUNK, 'data: {"choices": [{"ind')),
        raw(stream_of(CHUNK)),
        raw(stream_of(CHUNK, "data: broken\n\n")),
        raw(stream_of(CHUNK, CHUNK), length=4000),
    ],
)
def test_half_a_stream_ends_with_an_error_event(reply: Any) -> None:
    elsewhere = Server()
    elsewhere.plan = [reply]
    front = Served(Upstream(elsewhere.url, "tiny"))
    status, answer = post(front, CHAT, chat(stream=True))
    assert status == 200
    *events, last = [json.loads(line[6:]) for line in answer.splitlines() if line.startswith("data: {")]
    assert events[0]["choices"][0]["delta"] == {"content": "a"}
    assert last["error"]["code"] == "engine_failed"
    assert "[DONE]" not in answer
    front.close()
    elsewhere.close()


@settings(max_examples=60)
@given(cuts=st.lists(st.integers(1, 9), max_size=60), newline=st.sampled_from([b"\n", b"\r\n"]))
def test_events_are_the_same_however_the_stream_is_cut(cuts: list[int], newline: bytes) -> None:
    said = [("", '{"a": "ü"}'), ("error", "b\nc"), ("", "[DONE]")]
    first, second = [b"data: " + said[0][1].encode(), b""], [b"event: error", b"data: b", b"data:c", b""]
    left = newline.join([*first, b": nothing", b"", *second, b"data: [DONE]", b"", b""])
    pieces = []
    for cut in cuts:
        pieces.append(left[:cut])
        left = left[cut:]

    class Response:
        class content:
            @staticmethod
            async def iter_any() -> AsyncIterator[bytes]:
                for piece in [*pieces, left]:
                    yield piece

    async def read() -> list[tuple[str, str]]:
        return [event async for whole in upstream._whole(Response()) for event in upstream._events(whole)]  # type: ignore[arg-type]

    assert asyncio.run(read()) == said


def test_an_engine_that_hangs_is_left_at_the_deadline_and_bounded() -> None:
    elsewhere, free, entered = Server(), threading.Event(), threading.Event()

    def hang(handler: Any, body: Any) -> None:
        entered.set()
        free.wait()
        handler.close_connection = True

    elsewhere.plan = [hang]
    front = Served(Upstream(elsewhere.url, "tiny", limits=Limits(running=1, queue=0, deadline=3)))
    answers: list[int] = []
    thread = threading.Thread(target=lambda: answers.append(post(front, CHAT, chat())[0]))
    thread.start()
    entered.wait()
    assert post(front, CHAT, chat())[0] == 429
    thread.join()
    assert answers == [504]
    free.set()
    front.close()
    elsewhere.close()


def test_an_upstream_that_is_not_there_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--upstream", "http://127.0.0.1:9"])
    assert ended.value.code == 3
    assert "cannot be reached" in capsys.readouterr().err


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory, chat: Any) -> Path:
    from random_models import random_model

    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write(path, "f32", random_model(context=8192), chat, "tiny")
    return path


@pytest.mark.slow
def test_llama_cpp_may_crash_and_the_server_lives(gguf: Path) -> None:
    engine = LlamaEngine(gguf, "tiny", Limits(tokens=16_384, running=2))
    front = Served(engine)
    client = OpenAI(base_url=front.url, api_key="x", max_retries=0, timeout=600)
    first = client.chat.completions.create(model="tiny", messages=[USER], max_tokens=9, temperature=0)  # type: ignore[list-item]
    assert first.usage is not None
    assert first.usage.completion_tokens > 0
    assert json.loads(post(front, "/tokenize", {"prompt": "the cat"})[1])["count"] > 0
    child = engine.process
    stream = client.chat.completions.create(
        model="tiny", messages=[USER], max_tokens=8000, temperature=0, stream=True, logit_bias={"40": 100}  # type: ignore[list-item, call-overload]
    )  # fmt: skip
    next(iter(stream))
    child.kill()
    with pytest.raises(Exception, match="failed"):
        for _ in stream:
            pass
    pause = threading.Event()
    while not (engine.ready and engine.process is not child):
        pause.wait(0.05)
    again = client.chat.completions.create(model="tiny", messages=[USER], max_tokens=9, temperature=0)  # type: ignore[list-item]
    assert again.choices[0].message.content == first.choices[0].message.content
    client.close()
    front.close()
    assert engine.process.poll() is not None


@pytest.mark.slow
def test_llama_cpp_says_what_the_torch_engine_says(gguf: Path) -> None:
    from trivium.serve.local import TorchEngine

    model, tokenizer = open_checkpoint(gguf)
    replies = []
    for engine in (LlamaEngine(gguf, "tiny", Limits(tokens=1024)), TorchEngine(model, tokenizer, "tiny")):
        front = Served(engine)
        replies.append(
            json.loads(post(front, CHAT, chat(max_tokens=24))[1])["choices"][0]["message"]["content"]
        )
        front.close()
    # halves of characters, which a random model writes, are shown by each in its own way
    assert replies[0].replace("\ufffd", "") == replies[1].replace("\ufffd", "")


@pytest.mark.slow
def test_a_damaged_file_is_refused_before_anything_listens(gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.gguf").write_bytes(gguf.read_bytes()[:4000])
    with pytest.raises(ArtifactError, match="does not load"):
        LlamaEngine(tmp_path / "cut.gguf", "tiny")
