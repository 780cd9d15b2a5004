"""The process that loads a user's function, and forks one more for each call of it.

It is started by its path (`verify.function`) in an isolated Python and imports nothing of Trivium. A function may run code that a
model wrote, so the process of a call has no socket to Trivium: its result lies on a page of memory that is made for this
call and read when the process has ended. Whatever else it does (prints, closes files, exits, changes modules) ends with it. And
every answer in the socket begins with a secret of the call that is read only after the fork, so that the forked process has never
held it. No process may start or end others: limits hold for one, and a loop that forks would take the machine with it. Once
the file is loaded there are no files and no network (`confine.py`), where the machine can take them away.

In: 8 bytes of length, the call as JSON, 16 bytes of secret. Out: the secret, the answer as a line of JSON.
"""

from __future__ import annotations

import _posixsubprocess
import json
import math
import mmap
import os
import resource
import runpy
import signal
import struct
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

REFUSED = "a verifier may not start or end processes"
STARTS = ("os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.exec", "os.system", "subprocess.Popen")
ENDS = ("os.kill", "os.killpg")
RESULT = struct.Struct("=BdH")
"""What is on the page: one of the kinds below, the score, the length of the text that follows."""
SCORE, RAISED, FATAL = 1, 2, 3
TEXT = 1_000
"""Bytes of an error that are told. An answer is shorter than PIPE_BUF, so that it is written in one piece."""
WAITING = 6.0
"""How many times its seconds of CPU a call may take by the clock: a score must not depend on what else the machine does."""


def no_processes(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook, which cannot be taken off again."""
    if event in STARTS or event in ENDS:
        raise PermissionError(f"{REFUSED} ({event})")


def refuse(*arguments: Any) -> int:
    """In the place of what multiprocessing starts processes with, which no audit hook sees."""
    raise PermissionError(REFUSED)


def main(path: str, name: str, seconds: float, memory: int) -> None:
    calls, results = os.dup(0), os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    loading = True
    sys.addaudithook(lambda event, arguments: no_processes(event, arguments) if loading else None)
    _posixsubprocess.fork_exec = refuse
    function, why = _load(path, name)
    loading = False
    runpy.run_path(str(Path(__file__).with_name("confine.py")))["confine"]()
    _tell(results, _exactly(calls, 16), {"fatal": why} if function is None else {"ready": True})
    while function is not None and (size := _exactly(calls, 8)):
        call = _exactly(calls, int.from_bytes(size, "little"))
        with mmap.mmap(-1, RESULT.size + TEXT) as page:
            held, release = os.pipe()
            child = os.fork()
            if child == 0:
                os.close(release)
                os.read(held, 1)  # until the secret is out of the pipe
                _serve(function, name, call, page, (calls, results, held), seconds)
            secret = _exactly(calls, 16)
            os.close(held)
            os.close(release)
            code, late = _wait(child, seconds)
            _tell(results, secret, _answer(page, code, late, seconds))


def _load(path: str, name: str) -> tuple[Callable[[Any, str], Any] | None, str]:
    """The function, or what is wrong with its file."""
    try:
        return runpy.run_path(path)[name], ""
    except KeyError:
        return None, f"it has no function `{name}`"
    except BaseException as error:
        return None, f"it cannot be loaded: {_described(error)}"


def _serve(
    function: Callable[[Any, str], Any],
    name: str,
    call: bytes,
    page: mmap.mmap,
    private: tuple[int, ...],
    seconds: float,
) -> None:
    """The forked process: one call, its result on the page, the end."""
    leave, here = os._exit, os.getpid()
    try:
        for pipe in private:
            os.close(pipe)
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(seconds), resource.RLIM_INFINITY))
        sys.addaudithook(no_processes)
        asked = json.loads(call)
        kind, score, text = _result(function, name, asked["record"], asked["reply"])
        if os.getpid() == here:  # native code can fork unseen, and its copy would come by here too
            page[RESULT.size : RESULT.size + len(text)] = text
            page[: RESULT.size] = RESULT.pack(kind, score, len(text))
    finally:
        leave(0)


def _result(
    function: Callable[[Any, str], Any], name: str, record: Any, reply: str
) -> tuple[int, float, bytes]:
    try:
        value = function(record, reply)
        if isinstance(value, int | float) and math.isfinite(value):
            return SCORE, float(value), b""
        text = f"`{name}` must return a finite number or a bool, not {value!r:.80}"
        return FATAL, 0.0, text.encode(errors="replace")[:TEXT]
    except BaseException as error:
        return RAISED, 0.0, _described(error).encode(errors="replace")[:TEXT]


def _wait(child: int, seconds: float) -> tuple[int, bool]:
    """(how it ended, as `os.waitstatus_to_exitcode` gives it; whether it was stopped because its time was over)."""
    late = False

    def stop(number: int, frame: Any) -> None:
        nonlocal late
        late = True
        os.kill(child, signal.SIGKILL)

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, WAITING * seconds)
    try:
        _, status = os.waitpid(child, 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    code = os.waitstatus_to_exitcode(status)
    return code, late or code == -signal.SIGXCPU


def _answer(page: mmap.mmap, code: int, late: bool, seconds: float) -> dict[str, Any]:
    if late:
        return {"failed": ("timed out", f"it took more than {seconds:g} s")}
    kind, score, length = RESULT.unpack(page[: RESULT.size])
    text = page[RESULT.size : RESULT.size + min(length, TEXT)].decode(errors="replace")
    if code == 0 and kind == SCORE:
        return {"score": score}
    if code == 0 and kind in (RAISED, FATAL):
        return {"failed": ("raised", text)} if kind == RAISED else {"fatal": text}
    return {"failed": ("died", f"its process ended with {code} before the function returned")}


def _exactly(pipe: int, size: int) -> bytes:
    """So many bytes and not one more, since what follows is not for the forked process. Empty where the pipe has ended."""
    data = b""
    while len(data) < size:
        piece = os.read(pipe, min(size - len(data), 1 << 20))
        if not piece:
            return b""
        data += piece
    return data


def _tell(pipe: int, secret: bytes, answer: dict[str, Any]) -> None:
    os.write(pipe, secret + json.dumps(answer, ensure_ascii=False).encode() + b"\n")


def _described(error: BaseException) -> str:
    """The error and the line it comes from."""
    places = traceback.extract_tb(error.__traceback__)
    text = "".join(traceback.format_exception_only(error)).strip()
    return f"line {places[-1].lineno}: {text}" if places else text


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]))
