"""A small OpenAI-compatible server on this machine, which also fails in every way that servers do."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server:
    """Answers by `plan`: an item is a function of the handler, taken in turn; the last one stays."""

    def __init__(self) -> None:
        self.plan: list[Any] = []
        self.seen: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # a kept connection would wait 40 ms for each body

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    outer.seen.append({"path": self.path, **body})
                    outer.headers.append(dict(self.headers))
                    action = outer.plan.pop(0) if len(outer.plan) > 1 else outer.plan[0]
                action(self, body)

            def log_message(self, *arguments: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


def send(handler: Any, status: int, data: bytes, length: int | None = None, **headers: str) -> None:
    handler.send_response(status)
    for name, value in {"Content-Length": str(length or len(data)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(data)


def status(code: int, **headers: str) -> Any:
    return lambda handler, body: send(handler, code, b'{"error": "no"}', **headers)


def raw(data: bytes, length: int | None = None) -> Any:
    def action(handler: Any, body: Any) -> None:
        # a close that is not said would meet the client's next request
        send(handler, 200, data, length, Connection="close")

    return action


def chat_of(text: str, finish: str = "stop") -> bytes:
    usage = {"prompt_tokens": 10, "completion_tokens": 5}
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return json.dumps({"choices": [choice], "usage": usage}).encode()
