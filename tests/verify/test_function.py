"""A user's function: its scores come through; hangs, crashes, floods and mistakes of all kinds cost a call and no more."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from trivium.errors import DataError
from trivium.verify.function import Function, identity

CODE = '''
import os, sys, time
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
    if reply == "close": os.close(0); time.sleep(60)
    if reply == "text": return "1"
    if reply == "nan": return float("nan")
    if reply == "pid": return os.getpid()
    if reply == "calls": return calls
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


def test_scores_come_through_from_one_process(function):
    assert [function(RECORD, reply) for reply in ("abc", "ab", "äöü", "print", "secret")] == [1, 0, 1, 0, 0]
    assert function(RECORD, "x" * 300_000) == 0
    assert function(RECORD, "pid") == function(RECORD, "pid") != os.getpid()
    assert function(RECORD, "calls") == 9
    assert not function.failures


@pytest.mark.parametrize(
    ("reply", "why", "restarted"),
    [
        ("hang", "timed out", True),
        ("spin", "timed out", True),
        ("raise", "raised", False),
        ("exit", "raised", False),
        ("die", "died", True),
        ("memory", "raised", False),
        ("close", "timed out", True),
    ],
)
def test_a_bad_call_scores_nothing_and_the_next_is_served(function, reply, why, restarted):
    before = function(RECORD, "pid")
    started = time.monotonic()
    assert function(RECORD, reply) == 0
    assert time.monotonic() - started < 5
    assert dict(function.failures) == {why: 1}
    assert function(RECORD, "abc") == 1
    assert (function(RECORD, "pid") != before) is restarted
    if restarted:
        with pytest.raises(ProcessLookupError):
            os.kill(int(before), 0)


@pytest.mark.parametrize("reply", ["text", "nan"])
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
