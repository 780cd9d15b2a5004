"""A call of a user's function has no files and no network, and no way into other processes, also in native code."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from trivium.errors import DataError
from trivium.verify import confine
from trivium.verify.function import HOPELESS, Function

LEFT = json.loads(
    subprocess.run([sys.executable, "-I", confine.__file__], capture_output=True, text=True).stdout
)
pytestmark = pytest.mark.skipif(bool(LEFT), reason=f"this kernel cannot take away: {LEFT}")
CODE = """
from pathlib import Path
HERE = Path({here!r})
WORDS = (HERE / "words.txt").read_text()
def score(record, reply):
    exec(reply, globals())
    return 1
"""
TRIES = {
    "reads a file": "(HERE / 'words.txt').read_text()",
    "writes one": "(HERE / 'words.txt').write_text('changed')",
    "takes one away": "(HERE / 'words.txt').unlink()",
    "lists a folder": "import os; os.listdir(HERE)",
    "looks at the secrets of a process": "import os; open(f'/proc/{{os.getppid()}}/environ').read()",
    "asks the network": "import socket; socket.create_connection(('127.0.0.1', {port}))",
    "sends without asking": "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))",
    "asks in native code": "import ctypes, os\nif ctypes.CDLL(None).socket(2, 1, 0) < 0: raise OSError",
    "opens in native code": "import ctypes\nif ctypes.CDLL(None).open(str(HERE / 'words.txt').encode(), 0) < 0: raise OSError",
    "ends the one who trains": "import ctypes\nif ctypes.CDLL(None).kill({pid}, 9) < 0: raise OSError",
}  # fmt: skip


@pytest.fixture
def made(tmp_path: Path):
    (tmp_path / "words.txt").write_text("because")
    (tmp_path / "mine.py").write_text(CODE.format(here=str(tmp_path)))
    with Function(tmp_path / "mine.py") as function:
        yield function


@pytest.mark.parametrize("what", TRIES)
def test_a_call_reaches_nothing(made, tmp_path, what):
    bystander = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = TRIES[what].format(port=server.getsockname()[1], pid=bystander.pid)
        assert made({}, code) == 0 and made.failures == {"raised": 1}
        assert (tmp_path / "words.txt").read_text() == "because" and bystander.poll() is None
        assert made({}, "") == 1
        anyone = f"from pathlib import Path\nHERE = Path({str(tmp_path)!r})\n{code}"
        subprocess.run([sys.executable, "-c", anyone], check=True)  # who is not confined can do it
    bystander.kill()
    bystander.communicate()


def test_a_call_has_what_was_read_before_and_pythons_own(made):
    code = "import sqlite3, decimal, zoneinfo, random\nassert WORDS == 'because' and random.SystemRandom().random() < 1"
    assert made({}, code) == 1 and not made.failures


def test_a_function_that_reads_in_every_call_is_told_how(made):
    with pytest.raises(DataError, match=r"(?s)Permission denied.*where the file is loaded"):
        for _ in range(HOPELESS):
            made({}, TRIES["reads a file"])
