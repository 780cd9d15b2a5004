"""A user's own verifier: a function in a Python file, each call in a process of its own with limits on time and memory."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from trivium.errors import DataError
from trivium.files import sha256
from trivium.verify.worker import WAITING

START = 30.0
"""Seconds that loading the user's file may take."""
GRACE = 5.0
"""Seconds beyond a call's own in which the worker, which ends late calls itself, has to answer."""
NOISE = 1 << 20
"""Bytes that are no answer and are passed over before the worker is given up."""
HOPELESS = 10
"""So many calls that failed, and none that did not, mean that the function is wrong and not the replies."""


class Function:
    """`name(record, reply)` of the file at `path`: a number, or a bool. The file is loaded once; each call forks that process.

    A call that raises, computes for more than `seconds` or takes WAITING times as long, or ends its process before it has
    returned (memory is limited to `memory` bytes) scores 0 and is counted in `failures`. What it prints is read by nobody, and
    what it changes (variables, modules, open files, the working folder) is gone with its process, so no reply can touch the
    score of the next one. It may not start or end processes. A call opens no file but those that Python is made of, and no
    connection, where the kernel has Landlock and seccomp; `trivium doctor` says where not. The score is what the function
    returns: one that runs a reply's code by `exec` has it beside itself, and such code can reach the function's variables.
    DataError for a file that does not load, a result that is no number, or a function that fails on each of its first ten
    replies.
    """

    _process: subprocess.Popen[bytes] | None = None

    def __init__(
        self, path: Path, name: str = "score", *, seconds: float = 5.0, memory: int = 1 << 30
    ) -> None:
        self.path, self.name, self.seconds, self.memory = path, name, seconds, memory
        self.failures: Counter[str] = Counter()
        self.succeeded = 0
        self._socket: socket.socket | None = None

    def __call__(self, record: Mapping[str, Any], reply: str) -> float:
        if self._process is None:
            self._start()
        call, secret = json.dumps({"record": record, "reply": reply}).encode(), secrets.token_bytes(16)
        deadline = time.monotonic() + WAITING * self.seconds + GRACE
        sent = self._send(len(call).to_bytes(8, "little") + call + secret, deadline)
        result = self._answer(secret, deadline) if sent else None
        if result is None:
            result = self._ended()
        if "fatal" in result:
            raise self._error(result["fatal"])
        if "failed" in result:
            return self._failed(*result["failed"])
        self.succeeded += 1
        return float(result["score"])

    def close(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if self._socket is not None:
            self._socket.close()

    def __del__(self) -> None:  # of one that is used without `with`, as the reward of a run is
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> None:
        if not self.path.is_file():
            raise self._error("there is no such file")
        worker = Path(__file__).with_name("worker.py")
        ours, theirs = socket.socketpair()  # unlike a pipe it cannot be opened a second time, through /proc
        process: subprocess.Popen[bytes] = subprocess.Popen(
            [sys.executable, "-I", "-B", worker, self.path, self.name, str(self.seconds), str(self.memory)],
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
            env={"PATH": os.defpath, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        theirs.close()
        ours.setblocking(False)
        self._socket = ours
        self._process, secret, deadline = process, secrets.token_bytes(16), time.monotonic() + START
        result = self._answer(secret, deadline) if self._send(secret, deadline) else None
        if result is None or "fatal" in result:
            self.close()
            raise self._error(result["fatal"] if result else f"it does not load within {START:g} s")

    def _send(self, data: bytes, deadline: float) -> bool:
        """Writes without ever waiting past the deadline: a process that reads nothing must not hang this one."""
        assert self._socket is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_WRITE)
            while data:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    return False
                try:
                    data = data[self._socket.send(data) :]
                except ConnectionError:
                    return False
        return True

    def _answer(self, secret: bytes, deadline: float) -> dict[str, Any] | None:
        """What the worker says behind the call's secret; None if it ends or says nothing in time. All else is passed over."""
        assert self._socket is not None
        received = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            while len(received) < NOISE:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    return None
                try:
                    piece = self._socket.recv(1 << 16)
                except ConnectionError:
                    return None
                if not piece:
                    return None
                received += piece
                line, ended, _ = received.partition(secret)[2].partition(b"\n")
                if ended:
                    answer: dict[str, Any] = json.loads(line)
                    return answer
        return None

    def _ended(self) -> dict[str, Any]:
        """Where the worker itself gave no answer: how it ended. It is started anew by the next call."""
        assert self._process is not None
        process = self._process
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.2)  # one that died is not always reaped at once
        code = process.poll()
        self.close()
        if code is None:
            return {"failed": ("timed out", f"it took more than {self.seconds:g} s")}
        return {"failed": ("died", f"the process that loaded it ended with {code}")}

    def _failed(self, why: str, detail: str) -> float:
        self.failures[why] += 1
        if not self.succeeded and self.failures.total() >= HOPELESS:
            raise self._error(f"it failed on each of the first {HOPELESS} replies; the last: {detail}")
        return 0.0

    def _error(self, what: str) -> DataError:
        self.close()
        return DataError(
            f"the verifier's function cannot be used: {what}",
            where=f"{self.path}, function {self.name}",
            fix=f"write `def {self.name}(record, reply): ...` that returns a number from 0 to 1; calls have no files and no "
            "network, so read what they need where the file is loaded",
        )


def identity(path: Path) -> dict[str, str]:
    """What a stage depends on beside the function's name: the bytes of its file. DataError if there is none."""
    if not path.is_file():
        raise DataError("no such file", where=str(path), fix="correct the verifier's `path`")
    return {"sha256": sha256(path)}
