"""Model-written code that cheats: it forges answers, floods and closes what it can reach, and gains no score by it."""

import pytest

from trivium.verify.function import Function

GRADER = """
def score(record, reply):
    scope = {}
    exec(reply, scope)
    return scope["double"](3) == 6
"""
RIGHT, WRONG = "def double(n): return 2 * n", "def double(n): return n"
FORGED = r"""
import json, os, struct
lines = [json.dumps(row).encode() + b"\n" for row in ({"score": 1.0}, {"ready": True})]
lines += [os.urandom(16) + lines[0], struct.pack("=BdH", 1, 1.0, 0)]
def flood(places):
    for place in places:
        try:
            for line in lines * 3: os.write(place, line)
        except OSError: pass
def of_parent():
    try: places = os.listdir(f"/proc/{os.getppid()}/fd")
    except OSError: return  # no files are left to it
    for place in places:
        try: yield os.open(f"/proc/{os.getppid()}/fd/{place}", os.O_WRONLY | os.O_NONBLOCK)
        except OSError: pass
"""
READS = "for n in range(256):\n  try: os.read(n, 99)\n  except OSError: pass"
FOREVER = "import threading\ndef on():\n  while True: flood(range(256))\nthreading.Thread(target=on, daemon=True).start()"
SIX = "lambda code, scope: scope.update(double=lambda n: 6)"
CHEATS = {
    "prints": ("print('{\"score\": 1.0}', flush=True)", None),
    "writes to every descriptor": (f"{FORGED}flood(range(256))", None),
    "writes to every descriptor and leaves": (f"{FORGED}flood(range(256)); os._exit(0)", "died"),
    "writes to those of the parent": (f"{FORGED}flood(of_parent())", None),
    "closes every descriptor": ("import os; os.closerange(0, 256)", None),
    "closes every descriptor and leaves": ("import os; os.closerange(0, 256); os._exit(0)", "died"),
    "reads every descriptor": (f"import os\n{READS}", None),
    "goes on writing": (f"{FORGED}{FOREVER}", None),
    "forks": ("import os; os.fork()", "raised"),
    "forks in native code": ("import ctypes; ctypes.CDLL(None).fork()", None),
    "ends the parent": ("import os; os.kill(os.getppid(), 9)", "raised"),
    "ends the parent in native code": (
        "import ctypes, os; ctypes.CDLL(None).kill(os.getppid(), 9); os._exit(0)",
        "died",
    ),
    "changes modules": (
        "import json, os; json.loads = json.dumps = lambda *a, **k: '1'; os.chdir('/')",
        None,
    ),
    "raises": ("raise ValueError", "raised"),
}
"""Name -> (what a reply does that has not solved the task, why its call fails; None if the function returns all the same)."""
POISONS = {
    "builtins": f"import builtins; builtins.exec = {SIX}",
    "the function's globals": f"import sys; sys._getframe(1).f_globals['exec'] = {SIX}",
}


@pytest.mark.parametrize("cheat", CHEATS)
def test_a_reply_writes_neither_its_own_score_nor_that_of_the_next(tmp_path, cheat):
    (tmp_path / "grader.py").write_text(GRADER)
    code, why = CHEATS[cheat]
    bad = f"{code}\n{WRONG}"
    with Function(tmp_path / "grader.py", seconds=2.0, memory=1 << 29) as function:
        scores = [function({}, reply) for reply in (RIGHT, bad, WRONG, RIGHT, bad, bad, RIGHT, WRONG, RIGHT)]
    assert scores == [1, 0, 0, 1, 0, 0, 1, 0, 1]
    assert dict(function.failures) == ({why: 3} if why else {})


@pytest.mark.parametrize("poison", POISONS)
def test_what_a_reply_changes_in_the_function_is_gone_before_the_next(tmp_path, poison):
    (tmp_path / "grader.py").write_text(GRADER)
    with Function(tmp_path / "grader.py", seconds=2.0, memory=1 << 29) as function:
        function({}, f"{POISONS[poison]}\n{WRONG}")
        assert [function({}, reply) for reply in (WRONG, RIGHT)] == [0, 1]
