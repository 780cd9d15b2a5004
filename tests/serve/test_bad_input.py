"""What is sent to break a server ends with an error in the shape of OpenAI, or a refusal to start, and harms nobody else."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_server import Server
from random_models import random_model
from served import Served

from trivium.cli import main
from trivium.imports import save
from trivium.recipe.network import Generation
from trivium.serve import process
from trivium.serve.app import Web
from trivium.serve.engines import Limits
from trivium.serve.keys import Keys, add
from trivium.serve.local import TorchEngine
from trivium.serve.problems import ApiError
from trivium.serve.process import configured
from trivium.serve.upstream import Upstream
from trivium.text.chat import ChatTokenizer

CHAT = "/v1/chat/completions"
USER = {"role": "user", "content": "the cat"}
ASKED = {"model": "tiny", "messages": [USER], "max_tokens": 4}


def posted(port: int, body: Any, path: str = CHAT) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request("POST", path, json.dumps(body))
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    return response.status, answer


class Behind:
    """A server as `trivium serve` makes it, in a thread: the connections are handled as there."""

    def __init__(self, engine: Any) -> None:
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(2048)
        self.port = self.listener.getsockname()[1]
        self.server = configured(Web(engine).app(), "127.0.0.1", 0)
        self.thread = threading.Thread(target=self.server.run, args=([self.listener],), daemon=True)
        self.thread.start()
        while not (self.server.started and engine.ready):
            self.thread.join(0.01)
            assert self.thread.is_alive()

    def post(self, body: Any, path: str = CHAT) -> tuple[int, dict[str, Any]]:
        return posted(self.port, body, path)

    def connected(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=600)

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(600)
        self.listener.close()


@pytest.fixture
def engine(chat: ChatTokenizer) -> TorchEngine:
    usual = Generation(temperature=0.0, max_new_tokens=24)
    return TorchEngine(random_model(context=512), chat, "tiny", usual, Limits(tokens=2048))


@pytest.fixture
def behind(engine: TorchEngine) -> Iterator[Behind]:
    server = Behind(engine)
    yield server
    server.close()


def ended(connection: socket.socket) -> bool:
    """Whether the other side closes it; waits until it does or says something."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize(
    "said", [b"", b"POST /v1/chat", b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nX: "]
)
def test_heads_that_come_drop_by_drop_do_not_hold_a_connection(
    behind: Behind, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    monkeypatch.setattr(process, "HEAD", 0.3)
    with behind.connected() as connection:
        connection.sendall(said)
        assert ended(connection)
    assert behind.post(ASKED)[0] == 200


def test_a_kept_connection_that_turns_slow_is_closed_and_a_good_one_kept(
    behind: Behind, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    kept = http.client.HTTPConnection("127.0.0.1", behind.port, timeout=600)
    kept.request("GET", "/health")
    assert kept.getresponse().read()
    monkeypatch.setattr(process, "HEAD", 0.3)
    with behind.connected() as connection:
        connection.sendall(request)
        while not connection.recv(1 << 16).endswith(b"}"):
            pass
        connection.sendall(request[:20])
        assert ended(connection)
    kept.request("GET", "/health")  # it said nothing for as long
    assert kept.getresponse().status == 200
    kept.close()


def test_a_body_that_comes_drop_by_drop_is_a_408(behind: Behind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trivium.serve.app.SLOW", 0.3)
    with behind.connected() as connection:
        connection.sendall(
            f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 90\r\n\r\n{{".encode()
        )
        assert b" 408 " in connection.makefile("rb").readline()


def test_ten_megabytes_without_a_length_are_a_413(behind: Behind) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", behind.port, timeout=600)
    piece = b" " * (1 << 20)
    connection.putrequest("POST", CHAT)
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    try:
        for _ in range(10):
            connection.send(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
    except (BrokenPipeError, ConnectionResetError):
        pass  # it was refused before all of it was there
    else:
        connection.send(b"0\r\n\r\n")
    response = connection.getresponse()
    assert response.status == 413
    assert json.loads(response.read())["error"]["code"] == "body_too_large"
    connection.close()


def test_connections_over_the_limit_are_answered_and_leave_nothing_behind(
    behind: Behind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit of five and a thousand more."""
    monkeypatch.setattr(process, "CONNECTIONS", 5)
    held = [behind.connected() for _ in range(5)]
    while len(behind.server.server_state.connections) < 5:
        pass
    for path in (CHAT, "/v1/messages"):
        status, answer = behind.post(ASKED, path)
        assert (status, "too many" in answer["error"]["message"]) == (503, True)
    crowd = [behind.connected() for _ in range(1000)]
    while len(behind.server.server_state.connections) > 10:
        pass
    for connection in (*held, *crowd):
        connection.close()
    while behind.server.server_state.connections:
        pass
    assert behind.post(ASKED)[0] == 200


def test_a_client_that_reads_nothing_is_let_go(engine: TorchEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its reply is longer than what the two ends hold for it."""
    monkeypatch.setattr(process, "UNREAD", 0.3)

    async def flood(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not left.is_set():
            await send({"type": "http.response.body", "body": b"x" * (1 << 20), "more_body": True})
            if not server.server.server_state.connections:
                left.set()

    left = threading.Event()
    engine.start = lambda: None  # type: ignore[method-assign]
    monkeypatch.setattr(Web, "app", lambda self: flood)
    monkeypatch.setattr(TorchEngine, "ready", True)
    server = Behind(engine)
    with server.connected() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert left.wait(600)
    server.close()


@pytest.mark.parametrize("piece", [b"", b'data: {"choices": [{"ind'])
def test_an_upstream_that_stops_in_the_middle_of_a_stream_is_left_at_the_deadline(piece: bytes) -> None:
    chunk = b'data: {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": null}]}\n\n'
    elsewhere, free = Server(), threading.Event()

    def hang(handler: Any, body: Any) -> None:
        handler.send_response(200)
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(chunk + piece)
        free.wait()
        handler.close_connection = True

    elsewhere.plan = [hang]
    front = Served(Upstream(elsewhere.url, "tiny", limits=Limits(deadline=1)))
    connection = http.client.HTTPConnection("127.0.0.1", front.port, timeout=600)
    connection.request("POST", CHAT, json.dumps({**ASKED, "stream": True}))
    events = [json.loads(line[6:]) for line in connection.getresponse().read().splitlines() if line]
    assert events[0]["choices"][0]["delta"] == {"content": "a"}
    assert events[-1]["error"]["code"] == "deadline"
    assert front.service.active == 0
    free.set()
    connection.close()
    front.close()
    elsewhere.close()


def test_numbers_that_are_none_end_their_own_reply_only(chat: ChatTokenizer) -> None:
    """A token whose embedding is damaged: who uses it is told, and who shares the batch, or the room after it, is not harmed."""
    model = random_model(context=512)
    bad = chat.guard.plain("Q")[0]
    with torch.no_grad():
        model.model.embed_tokens.weight[bad] = torch.nan
    usual = Generation(temperature=0.0, max_new_tokens=24)
    served = Served(TorchEngine(model, chat, "tiny", usual, Limits(tokens=128)))
    good, poisoned = {**ASKED, "max_tokens": 24}, {**ASKED, "messages": [{**USER, "content": "the Q cat"}]}

    alone = posted(served.port, good)[1]["choices"]
    results: list[tuple[int, Any]] = []
    beside = [threading.Thread(target=lambda body=body: results.append(posted(served.port, body)))
              for body in (good, poisoned, good, poisoned, good)]  # fmt: skip
    for thread in beside:
        thread.start()
    for thread in beside:
        thread.join()
    assert sorted(status for status, _ in results) == [200, 200, 200, 500, 500]
    assert all(answer["choices"] == alone for status, answer in results if status == 200)
    assert {a["error"]["code"] for status, a in results if status == 500} == {"model_error"}
    for turn in range(4):  # in rooms that held what is no number
        assert posted(served.port, {**good, "messages": [{**USER, "content": f"{turn}"}, USER]})[0] == 200
        assert posted(served.port, poisoned)[0] == 500
    assert posted(served.port, good)[1]["choices"] == alone
    served.close()


def test_the_last_event_is_charged_before_its_client_has_it(engine: TorchEngine, tmp_path: Path) -> None:
    """A client that leaves at [DONE] has no request more than its tokens: at each event, what it holds is paid."""
    key = add(tmp_path / "keys", "few", tokens="5/day")
    keys = Keys(tmp_path / "keys")
    app = Web(engine, keys=keys).app()
    refused = list[bool]()

    async def ask() -> None:
        engine.start()
        body = json.dumps({**ASKED, "max_tokens": 9, "stream": True, "logit_bias": {"40": 100}}).encode()
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Any:
            if messages:
                return messages.pop()
            await asyncio.Event().wait()
            return None

        async def send(message: Any) -> None:
            if b"[DONE]" in message.get("body", b""):
                try:
                    keys.admit("few")
                    refused.append(False)
                except ApiError:
                    refused.append(True)

        headers = [(b"host", b"127.0.0.1"), (b"authorization", f"Bearer {key}".encode())]
        scope = {
            "type": "http", "method": "POST", "path": CHAT, "raw_path": CHAT.encode(), "query_string": b"",
            "headers": headers, "scheme": "http", "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 9),
            "root_path": "", "http_version": "1.1", "asgi": {"version": "3.0"},
        }  # fmt: skip
        await app(scope, receive, send)
        await asyncio.to_thread(engine.stop)

    asyncio.run(ask())
    assert refused == [True]


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "huge"])
@pytest.mark.parametrize("kind", ["torch", pytest.param("llama.cpp", marks=pytest.mark.slow)])
def test_a_corrupt_gguf_is_refused_before_anything_listens(
    chat: ChatTokenizer,
    tmp_path: Path,
    damage: str,
    kind: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from trivium.deploy.export import write

    if kind == "llama.cpp":
        pytest.importorskip("xllamacpp")
    path = tmp_path / "model.gguf"
    write(path, "f32", random_model(context=64), chat, "tiny")
    whole = path.read_bytes()
    monkeypatch.setattr("trivium.serve.server.serve", lambda make, **_: make(None))  # it would wait for ever
    path.write_bytes(
        {
            "cut": whole[: len(whole) // 2],
            "garbage": whole[:100] + bytes(range(256)) * 40 + whole[10_340:],
            "empty": b"",
            "huge": whole[:8] + b"\xff" * 8 + whole[16:],  # so many tensors
        }[damage]
    )
    with pytest.raises(SystemExit) as stopped:
        main(["serve", str(path), "--engine", kind, "--port", "0"])
    said = capsys.readouterr().err
    assert stopped.value.code not in (0, None)
    assert "Traceback" not in said
    assert "model.gguf" in said


TEMPLATES = {
    "endless": "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}"
    "{% endfor %}",
    "memory": "{{ 'a' * 50000000000 }}",
    "escape": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "raises": "{{ raise_exception('no') }}",
    "syntax": "{% for %}",
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name == "endless" else []) for name in TEMPLATES]
)
def test_a_hostile_chat_template_is_refused_before_anything_listens(
    chat: ChatTokenizer,
    tmp_path: Path,
    name: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each would cost every request two seconds, or give it what it may not have."""
    save(random_model(context=64), chat, tmp_path / "model")
    settings = tmp_path / "model" / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "chat_template": TEMPLATES[name]}))
    (tmp_path / "model" / "chat_template.jinja").unlink(missing_ok=True)
    monkeypatch.setattr("trivium.serve.server.serve", lambda make, **_: make(None))  # it would wait for ever
    with pytest.raises(SystemExit) as stopped:
        main(["serve", str(tmp_path / "model")])
    said = capsys.readouterr().err
    assert stopped.value.code not in (0, None)
    assert "chat template" in said
    assert "Traceback" not in said
