"""A server of S3's protocol on loopback: moto, one request at a time, so that its conditional writes are atomic.

As a script: `s3_server.py PORT`. In its environment, for tests of what goes wrong: S3_DENY (answers 403 to whatever writes),
S3_CARELESS (passes over `If-None-Match`, as some servers do).
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.error import URLError

import pytest

BUCKET = "models"
KEYS = {
    "AWS_ACCESS_KEY_ID": "AKIATESTTESTTEST1234",
    "AWS_SECRET_ACCESS_KEY": "a-secret-that-nobody-may-read",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
DENIED = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


def use(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process and those that it starts ask the server at `address`."""
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()  # those that are open ask another one
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": address}.items():
        monkeypatch.setenv(name, value)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(**options: str) -> Iterator[str]:
    """The address of a server with a bucket, in a process of its own."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, __file__, str(port)],
        env={**os.environ, **KEYS, **options},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait(process, address)
        yield address
    finally:
        process.kill()
        process.wait()


def _wait(process: subprocess.Popen[bytes], address: str) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError("the S3 server ended")
        try:
            urllib.request.urlopen(
                urllib.request.Request(f"{address}/{BUCKET}", method="PUT"), timeout=5
            ).close()
            return
        except (URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
    raise RuntimeError("the S3 server does not answer")


Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


def _with_faults(inner: Application) -> Application:
    from werkzeug.wrappers import Request

    def application(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        if "S3_CARELESS" in os.environ:
            environ.pop("HTTP_IF_NONE_MATCH", None)
        if "S3_DENY" in os.environ and _writes(environ):
            Request(environ).get_data()  # what is not read keeps the connection, and the server, waiting
            start("403 Forbidden", [("Content-Type", "application/xml")])
            return [DENIED]
        return inner(environ, start)

    return application


def _writes(environ: dict[str, Any]) -> bool:
    return environ["REQUEST_METHOD"] in ("PUT", "POST") and "/" in str(environ["PATH_INFO"]).strip("/")


def main(port: int) -> None:
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    application: Any = DomainDispatcherApplication(create_backend_app)
    server = make_server("127.0.0.1", port, _with_faults(application), threaded=False)
    server.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]))
