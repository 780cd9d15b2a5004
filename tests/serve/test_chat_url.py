"""`trivium chat --url` with a server."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest
from served import Served

from trivium.cli import main


def chat(*arguments: str) -> int | str | None:
    with pytest.raises(SystemExit) as ended:
        main(["chat", *arguments])
    return ended.value.code


def test_a_question_to_a_server(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    replies = []
    for url in (served.root, served.url):
        assert chat("--url", url, "-p", "the cat", "--max-new-tokens", "9") == 0
        replies.append(capsys.readouterr().out)
    assert replies[0] == replies[1]
    assert len(replies[0]) > 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--url", "http://127.0.0.1:9"], "cannot be reached"),
        (["--url", "ftp://x"], "no http"),
        (["--url", "SERVER", "--model", "other"], "there is no model 'other'"),
        (["--url", "SERVER", "--temperature", "9"], "temperature"),
        (["--url", "SERVER", "--key", "NO_SUCH_VARIABLE"], "NO_SUCH_VARIABLE"),
        (["somewhere", "--url", "SERVER"], "one of them"),
        ([], "one of them"),
    ],
)
def test_what_goes_wrong_is_told(
    served: Served, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    code = chat(*(served.root if a == "SERVER" else a for a in arguments), "-p", "the cat")
    assert code in (2, 3)
    assert told in capsys.readouterr().err.replace("\n", " ")


class Elsewhere(BaseHTTPRequestHandler):
    """Sends everybody to another host, and another path for those who follow."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(302)
        self.send_header("Location", f"http://localhost:{self.server.server_address[1]}/elsewhere")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


def test_a_redirect_is_not_followed_with_the_key(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SOME_KEY", "secret")
    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        assert chat("--url", url, "--key", "SOME_KEY", "-p", "the cat") == 3
        server.shutdown()
    assert Elsewhere.asked == ["/v1/models"]
    assert "refuses (302)" in capsys.readouterr().err
