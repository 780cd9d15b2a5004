"""The client against a server that answers with a real tiny model, and one that fails in every way it can."""

from __future__ import annotations

import gc
import json
import socket
import threading
import time
from email.utils import formatdate
from typing import Any

import pytest
from chat_server import Server, chat_of, raw, send, status

from trivium.errors import DataError
from trivium.generate.remote import Answer, Endpoint, Remote
from trivium.generate.sampling import SamplingParams
from trivium.generate.slots import complete
from trivium.generate.streaming import Streaming

GOOD = raw(chat_of("hello"))
ASK = [{"role": "user", "content": "hi"}]


def client(server: Server, **fields: Any) -> tuple[Remote, list[float]]:
    slept: list[float] = []
    return Remote(Endpoint(server.url, "tiny", **fields), sleep=slept.append), slept


def test_a_chat_and_what_is_sent(server, monkeypatch):
    monkeypatch.setenv("THE_KEY", "abc")
    server.plan = [GOOD]
    remote, _ = client(server, key="THE_KEY", price_in=2.0, price_out=4.0)
    answer = remote.chat(ASK, SamplingParams(0.7, 0.9, 33, 11, stop_strings=("x",), top_k=5, min_p=0.1))
    assert answer == Answer("hello", True, 10, 5)
    assert server.seen == [
        {"path": "/v1/chat/completions", "model": "tiny", "messages": ASK, "temperature": 0.7, "top_p": 0.9,
         "max_tokens": 33, "seed": 11, "stop": ["x"], "top_k": 5, "min_p": 0.1}
    ]  # fmt: skip
    assert server.headers[0]["Authorization"] == "Bearer abc"
    assert remote.meter.cost == pytest.approx(40e-6)


@pytest.mark.parametrize(
    "bad",
    [status(429), status(500), status(503), raw(b"not json"), raw(b"[]"), raw(b'{"choices": []}'), raw(b"{}"),
     raw(b'{"choices": [{"message": {"content": 3}}]}'), raw(chat_of("hello")[:40]), raw(chat_of("hello"), 900),
     lambda handler, body: handler.connection.shutdown(socket.SHUT_RDWR)],
)  # fmt: skip
def test_what_may_pass_is_tried_again(server, bad):
    server.plan = [bad, bad, GOOD]
    remote, slept = client(server)
    assert remote.chat(ASK, SamplingParams()).text == "hello"
    assert len(server.seen) == 3 and remote.meter.calls == 1
    assert 0.5 <= slept[0] <= 1 and 1 <= slept[1] <= 2


@pytest.mark.parametrize("drip", [False, True])
def test_a_slow_server_is_not_waited_for(server, drip):
    def slow(handler: Any, body: Any) -> None:
        if drip:
            handler.send_response(200)
            handler.send_header("Content-Length", "1000")
            handler.end_headers()
        until = time.monotonic() + 60
        while not left.wait(0.05):
            assert time.monotonic() < until, waited.append(body)
            if drip:
                handler.wfile.write(b" ")

    left, waited = threading.Event(), []
    server.plan = [slow, GOOD]
    remote, _ = client(server, timeout=0.4)
    try:
        assert remote.chat(ASK, SamplingParams()).text == "hello" and not waited
    finally:
        left.set()


def test_retry_after_is_kept_to(server):
    date = formatdate(time.time() + 500, usegmt=True)
    server.plan = [
        status(429, Retry_After="7"),
        status(503, Retry_After=date),
        status(429, Retry_After="x"),
        GOOD,
    ]
    remote, slept = client(server)
    remote.chat(ASK, SamplingParams())
    assert slept[0] == 7 and 300 < slept[1] <= 500 and slept[2] <= 4


def test_it_gives_up(server, monkeypatch):
    server.plan = [status(500)]
    remote, slept = client(server, retries=2)
    with pytest.raises(DataError, match="no answer after 3 tries; the last: status 500"):
        remote.chat(ASK, SamplingParams())
    assert len(server.seen) == 3 and len(slept) == 2
    for code in (400, 401, 404, 302):
        server.plan = [status(code, Location="http://127.0.0.1:1/")]
        server.seen.clear()
        with pytest.raises(DataError, match=f"refuses: status {code}"):
            remote.chat(ASK, SamplingParams())
        assert len(server.seen) == 1
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(DataError, match="NO_SUCH_KEY is not set"):
        client(server, key="NO_SUCH_KEY")[0].chat(ASK, SamplingParams())
    with pytest.raises(DataError, match="no http"):
        Remote(Endpoint("file:///etc", "x"))


def test_the_budget_stops(server):
    server.plan = [GOOD]
    remote, _ = client(server, price_out=1e6, budget=12.0)  # 5 a call
    with pytest.raises(DataError, match="budget is spent: 3 calls cost 15"):
        for _ in range(9):
            remote.chat(ASK, SamplingParams())
    assert len(server.seen) == 3


def test_the_rate_and_the_number_under_way_are_limited(server):
    under_way, most = [], 0
    three = threading.Barrier(3, timeout=60)

    def slow(handler: Any, body: Any) -> None:
        nonlocal most
        under_way.append(body)
        most = max(most, len(under_way))
        three.wait()
        under_way.pop()  # before the answer, after which the client may ask again
        send(handler, 200, chat_of("x"))

    server.plan = [slow]
    remote, slept = client(server, per_minute=0.6, parallel=3)
    remote.map(lambda number: remote.chat(ASK, SamplingParams()), range(9))
    assert most == 3
    assert 600 < max(slept) <= 800 and len(slept) == 8  # 100 seconds apart, whatever time has passed


def test_completions_of_ids_equal_those_of_the_local_engine(server, model, chat):
    def serve(handler: Any, body: Any) -> None:
        sampling = SamplingParams(body["temperature"], body["top_p"], body["max_tokens"])
        [made] = complete(model, [body["prompt"]], sampling, body["stop_token_ids"])
        shown = {"tokens": [f"token_id:{i}" for i in made.ids], "token_logprobs": made.logp}
        finish = "stop" if made.finished else "length"
        data = {
            "choices": [{"text": "", "logprobs": shown, "finish_reason": finish}],
            "usage": {"completion_tokens": len(made.ids)},
        }
        send(handler, 200, json.dumps(data).encode())

    server.plan = [serve]
    remote, _ = client(server)
    prompts = [
        chat.prompt([{"role": "user", "content": text}]) for text in ("the cat", "a dog sees", "nobody")
    ]
    ours = complete(model, prompts, SamplingParams(max_new_tokens=12), chat.stops)
    theirs = remote.complete(prompts, SamplingParams(max_new_tokens=12), chat.stops)
    assert [made.ids for made in theirs] == [made.ids for made in ours]
    for mine, other in zip(ours, theirs, strict=True):
        assert other.logp == pytest.approx(mine.logp, abs=1e-4) and other.finished == mine.finished
    assert len({one["seed"] for one in server.seen}) == 3


def test_a_connection_serves_many_requests_and_is_closed_with_its_client(server, recwarn):
    ports = []
    server.plan = [
        lambda handler, body: (ports.append(handler.client_address[1]), send(handler, 200, chat_of("x")))
    ]
    remote, _ = client(server)
    for _ in range(3):
        remote.chat(ASK, SamplingParams())
    assert len(ports) == 3 and len(set(ports)) == 1
    remote.endpoint = None  # nobody closes it by hand
    del remote
    gc.collect()
    assert not recwarn.list


def test_a_reply_that_breaks_off_while_it_is_read_is_told(server):
    chunk = b'data: {"choices": [{"delta": {"content": "he"}}]}\n'
    server.plan = [raw(chunk, length=900)]
    pieces = Streaming(server.url, "tiny").chat(ASK, {})
    assert next(pieces) == "he"
    with pytest.raises(DataError, match="cannot be reached"):
        next(pieces)


def test_a_piece_may_hold_what_unicode_calls_the_end_of_a_line(server):
    chunk = 'data: {"choices": [{"delta": {"content": "a\u2028b\x85c"}}]}\r\n\r\ndata: [DONE]\n\n'
    server.plan = [raw(chunk.encode())]
    assert list(Streaming(server.url, "tiny").chat(ASK, {})) == ["a\u2028b\x85c"]


@pytest.mark.parametrize(
    "url", ["", "file:///etc", "http://", "http://[", "http://host:port/v1", "localhost:8000"]
)
def test_an_address_is_checked_before_anything_is_sent(url):
    for make in (lambda: Remote(Endpoint(url, "x")), lambda: Streaming(url, "x")):
        with pytest.raises(DataError, match="no http or https address"):
            make()
