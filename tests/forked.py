"""Python programs in processes of their own that cost milliseconds, where importing torch costs seconds: forks of one process
that has imported what they need. They are stopped, killed and waited for like any other process."""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import types
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

COMMAND_LINE = "import sys; from trivium.cli import main; main(sys.argv[1:])"
ENVIRONMENT = dict(os.environ)
"""Before any test has changed it."""
LOADED = (
    *("trivium.cli.commands", "trivium.pipeline.run", "trivium.pipeline.stages", "trivium.phases", "trivium.assembly"),
    *("trivium.train.parallel.apply", "trivium.corpus.run", "trivium.corpus.read", "trivium.corpus.write", "trivium.model.hf"),
)  # fmt: skip


class Forked:
    """`python -c CODE WORDS...`, in folder `cwd` with further variables `env`, finding modules in folders `path`, too, in a
    `session` of its own if asked. What it prints is told when it has ended."""

    def __init__(
        self, code: str, *words: object, cwd: Path | None = None, env: Mapping[str, str] | None = None,
        path: Sequence[Path] = (), session: bool = False,
    ) -> None:  # fmt: skip
        self.returncode: int | None = None
        self._printed = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115
        self._ends, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        job = {
            "code": code,
            "words": [str(word) for word in words],
            "cwd": str(cwd or Path.cwd()),
            "env": {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
            "path": ["", *map(str, path)],
            "session": session,
        }
        with theirs:
            fds = [theirs.fileno(), *(file.fileno() for file in self._printed)]
            socket.send_fds(_server(), [json.dumps(job).encode()], fds)
        self.pid = self._told()

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self._ends.settimeout(timeout)
            try:
                self.returncode = self._told()
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired("python", timeout or 0) from None
            self._ends.close()
        return self.returncode

    def _told(self) -> int:
        if said := self._ends.recv(100):
            return int(said)
        raise RuntimeError("the process that forks has ended")

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """(what it printed, what it printed as errors)."""
        self.wait(timeout)
        out, err = (self._text(file) for file in self._printed)
        return out, err

    @staticmethod
    def _text(file: Any) -> str:
        with file:
            file.seek(0)
            return file.read().decode()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it may have ended since
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@cache
def _server() -> socket.socket:
    """Where forks are asked for."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={**ENVIRONMENT, "OMP_NUM_THREADS": "1"},
            cwd=Path(__file__).parent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )

    def end() -> None:
        process.kill()
        process.wait()

    atexit.register(end)
    return ours


def serve(asks: socket.socket) -> None:
    """Until nobody asks any more. In a fork it ends as the program does."""
    for name in LOADED:
        importlib.import_module(name)
    from trivium.plan import machine, rates

    # each process would measure for a second or two what its machine can do; the tests of the plan do
    machine._benchmark = lambda precision, device: rates.Rates({128: 5e10}, 5e8)  # type: ignore[assignment]
    os.fsync = lambda descriptor: None  # type: ignore[assignment]  # see conftest.py
    gc.freeze()
    waits = selectors.DefaultSelector()
    waits.register(asks, selectors.EVENT_READ)
    while True:
        for ready, _ in waits.select():
            if ready.data is None:
                message, fds, _, _ = socket.recv_fds(asks, 1 << 20, 3)
                if not message:
                    return
                if (pid := os.fork()) == 0:
                    for other in list(waits.get_map().values()):
                        if other.data is not None:
                            os.close(other.fd)
                            other.data[1].close()
                    waits.close()
                    asks.close()
                    _become(json.loads(message), fds)
                for fd in fds[1:]:
                    os.close(fd)
                told = socket.socket(fileno=fds[0])
                told.send(str(pid).encode())
                waits.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, told))
            else:
                waits.unregister(ready.fileobj)
                os.close(ready.fd)
                pid, told = ready.data
                with told, contextlib.suppress(OSError):  # nobody may be waiting
                    told.send(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())


def _become(job: dict[str, Any], fds: list[int]) -> None:
    os.close(fds[0])
    for number, fd in enumerate(fds[1:], 1):
        os.dup2(fd, number)
        os.close(fd)
    if job["session"]:
        os.setsid()
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["env"])
    sys.argv = ["-c", *job["words"]]
    sys.path[:0] = job["path"]
    program = types.ModuleType(
        "__main__"
    )  # without a file, as after -c: its own processes need not import it
    sys.modules["__main__"] = program
    exec(compile(job["code"], "<string>", "exec"), vars(program))
    sys.exit(0)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
