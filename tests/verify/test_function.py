"""A user's function: its scores come through; hangs, crashes, floods and mistakes of all kinds cost a call and no more."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trivium.errors import DataError
from trivium.verify.function import Function, identity

CODE = '''
import os, subprocess, sys, threading, time
calls = 0
def score(record, reply):
    global calls
    calls += 1
    if reply == "hang": time.sleep(60)
    if reply == "spin":
        while True: pass
    if reply == "raise": raise ValueError("no")
    if reply == "exit": sys.exit(3)
    if reply == "die": os._exit(3)
    if reply == "memory": bytearray(1 << 33)
    if reply == "print": print("{}", flush=True); os.write(1, b"{}\\n")
    if reply == "hog":
        held = []
        while True: held.append(bytearray(1 << 24))
    if reply == "recursion": return score(record, reply)
    if reply == "bomb":
        while True: os.fork()
    if reply == "shell": os.system(":(){ :|:& };:")
    if reply == "popen": subprocess.run(["true"])
    if reply == "many":
        import multiprocessing
        multiprocessing.Pool(4)
    if reply == "spawn":
        import multiprocessing
        multiprocessing.get_context("spawn").Process(target=print).start()
    if reply == "threads":
        def wait(): time.sleep(60)
        while True: threading.Thread(target=wait, daemon=True).start()
    if reply == "read": return len(sys.stdin.readline())
    if reply == "none": return None
    if reply == "close": os.close(0); time.sleep(60)
    if reply == "text": return "1"
    if reply == "nan": return float("nan")
    if reply == "pid": return os.getpid()
    if reply == "parent": return os.getppid()
    if reply == "calls": return calls
    if reply == "leave": os._exit(0)
    if reply == "forge":
        line = b'{"score": 1.0}\\n'
        print(line.decode() * 9, flush=True)
        for number in range(64):
            try: os.write(number, line * 9)
            except OSError: pass
        return 0
    if reply == "forge and leave":
        for number in range(64):
            try: os.write(number, b'{"score": 1.0}\\n')
            except OSError: pass
        os._exit(0)
    if reply == "shut":
        os.closerange(0, 64)
        return 0
    if reply == "teach":
        globals()["score"] = lambda record, reply: 1.0
        sys.modules["math"] = None
        os.chdir("/")
        return 0
    if reply == "secret": return "SECRET" in os.environ
    return record["meta"]["n"] == len(reply)
'''  # fmt: skip
RECORD = {"meta": {"n": 3}}


@pytest.fixture
def function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SECRET", "x")
    (tmp_path / "mine.py").write_text(CODE)
    with Function(tmp_path / "mine.py", seconds=1.0, memory=1 << 29) as made:
        yield made


def test_scores_come_through_each_from_a_process_of_its_own(function):
    assert [function(RECORD, reply) for reply in ("abc", "ab", "äöü", "print", "secret", "read")] == [
        1,
        0,
        1,
        0,
        0,
        0,
    ]
    assert function(RECORD, "x" * 300_000) == 0
    assert (
        len({function(RECORD, "pid"), function(RECORD, "pid"), function(RECORD, "parent"), os.getpid()}) == 4
    )
    assert function(RECORD, "parent") == function(RECORD, "parent"), "the file is loaded once"
    assert function(RECORD, "calls") == function(RECORD, "calls") == 1
    assert not function.failures


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ("hang", "timed out"),
        ("spin", "timed out"),
        ("raise", "raised"),
        ("exit", "raised"),
        ("die", "died"),
        ("leave", "died"),
        ("memory", "raised"),
        ("close", "timed out"),
        ("hog", "raised or timed out"),
        ("recursion", "raised"),
        ("bomb", "raised"),
        ("shell", "raised"),
        ("popen", "raised"),
        ("many", "raised"),
        ("forge and leave", "died"),
    ],
)
def test_a_bad_call_scores_nothing_and_the_next_is_served(function, reply, why):
    worker = function(RECORD, "parent")
    assert function(RECORD, reply) == 0
    assert dict(function.failures) in [
        {one: 1} for one in why.split(" or ")
    ]  # a busy machine fills memory slowly
    assert [function(RECORD, text) for text in ("abc", "ab")] == [1, 0]
    assert function(RECORD, "parent") == worker and not children(worker)


@pytest.mark.parametrize("reply", ["forge", "shut", "teach"])
def test_code_that_cheats_touches_no_score_but_its_own(function, reply):
    """It writes answers to every file that it can reach, closes them all, or changes what the next call would run."""
    assert function(RECORD, reply) == 0
    assert [function(RECORD, text) for text in ("ab", "abc", "a", "xyz")] == [0, 1, 0, 1]


def children(pid: float) -> str:
    listed = Path(f"/proc/{int(pid)}/task/{int(pid)}/children")
    return listed.read_text() if listed.exists() else ""


def test_a_fork_bomb_starts_no_process(function):
    worker = function(RECORD, "parent")
    for reply in ("bomb", "shell", "popen", "many", "spawn"):
        assert function(RECORD, reply) == 0 and not children(worker)
    assert function.failures == {"raised": 5}
    assert function(RECORD, "parent") == worker


def test_threads_without_end_cost_their_call_and_no_more(function):
    assert function(RECORD, "threads") == 0
    assert function.failures.total() == 1
    assert function(RECORD, "abc") == 1


@pytest.mark.parametrize("reply", ["text", "nan", "none"])
def test_a_result_that_is_no_number_is_a_mistake(function, reply):
    with pytest.raises(DataError, match="finite number"):
        function(RECORD, reply)


def test_a_function_that_never_works_is_said_so(function):
    with pytest.raises(DataError, match=r"first 10 replies; the last: line \d+: ValueError: no") as found:
        for _ in range(10):
            function(RECORD, "raise")
    assert "mine.py" in found.value.where


@pytest.mark.parametrize(
    ("code", "said"), [("x = 1", "no function"), ("1 / 0", "ZeroDivisionError"), ("def (", "SyntaxError"), (None, "no such file")]
)  # fmt: skip
def test_a_file_that_does_not_load(tmp_path, code, said):
    if code is not None:
        (tmp_path / "mine.py").write_text(code)
    with pytest.raises(DataError, match=said), Function(tmp_path / "mine.py") as function:
        function(RECORD, "abc")


def test_its_bytes_are_its_identity(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("a = 1")
    before = identity(path)
    path.write_text("a = 2")
    assert identity(path) != before
    with pytest.raises(DataError, match="no such file"):
        identity(tmp_path / "other.py")
