"""The whole program: it starts, is told to stop while it writes, finishes the reply, and is gone."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from trivium.errors import DataError
from trivium.serve.server import serve


def test_a_server_that_is_told_to_stop_finishes_what_it_writes(checkpoint: Callable[..., Path]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", "from trivium.cli import main; main()", "serve", str(checkpoint("tiny", context=2048)),
               "--port", str(port)]  # fmt: skip
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=dict(os.environ)
    ) as process:
        try:
            wait_until_ready(port, process)
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            body = {"model": "tiny", "messages": [{"role": "user", "content": "the cat"}], "max_tokens": 400,
                    "logit_bias": {"40": 100}, "stream": True, "stream_options": {"include_usage": True}}  # fmt: skip
            connection.request("POST", "/v1/chat/completions", json.dumps(body))
            response = connection.getresponse()
            response.readline()
            process.send_signal(signal.SIGTERM)
            events = response.read().decode().split("\n\n")
            assert events[-2] == "data: [DONE]"
            assert json.loads(events[-3].removeprefix("data: "))["usage"]["completion_tokens"] == 400
            connection.close()
            assert process.wait(60) == 0
        finally:
            process.kill()


def wait_until_ready(port: int, process: subprocess.Popen[bytes]) -> None:
    pause = threading.Event()
    for _ in range(1200):
        assert process.poll() is None
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/ready")
            with connection.getresponse() as response:
                if response.status == 200:
                    return
        except OSError:
            pass
        finally:
            connection.close()
        pause.wait(0.05)
    raise AssertionError("it never was ready")


def test_an_address_that_others_reach_needs_keys() -> None:
    with pytest.raises(DataError, match="can be reached by others"):
        serve(lambda metrics: None, host="0.0.0.0", port=0)  # type: ignore[arg-type, return-value]
