"""Tasks in processes: they run side by side, their errors come back as they were, and nobody outlives the run."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from trivium.corpus import engine
from trivium.errors import DataError, TriviumError


@dataclass(frozen=True)
class Note:
    """Writes who did the task and when."""

    folder: Path
    seconds: float = 0.0
    name: str = "note"

    def __call__(self, task: str) -> None:
        began = time.time()
        if task == "bad":
            raise DataError("this part is bad", where="here", fix="mend it")
        if task == "die":
            os._exit(3)
        time.sleep(self.seconds)
        (self.folder / task).write_text(f"{os.getpid()} {began} {time.time()}")


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers import the job's class by name."""
    path = [str(Path(__file__).parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))


def go(job: Note, tasks: list[str], workers: int | None = 2, small: bool = False) -> list[dict]:
    events: list[dict] = []
    engine.run(job, tasks, runner="native", workers=workers, emit=events.append, small=small)
    return events


def test_two_workers_are_two_processes_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "TELL", 0.0)
    events = go(Note(tmp_path, 0.4), ["a", "b", "c", "d"])
    said = [file.read_text().split() for file in sorted(tmp_path.iterdir())]
    assert len(said) == 4 and len({pid for pid, _, _ in said}) == 2
    assert str(os.getpid()) not in {pid for pid, _, _ in said}
    spans = sorted((float(began), float(ended)) for _, began, ended in said)
    assert any(second[0] < first[1] for first, second in pairwise(spans))
    assert events[-1] == {"event": "progress", "what": "note", "done": 4, "of": 4}


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_comes_back_as_it_was_raised(tmp_path: Path, workers: int) -> None:
    with pytest.raises(DataError, match="this part is bad") as caught:
        go(Note(tmp_path), ["a", "bad", "b"], workers)
    assert (caught.value.where, caught.value.fix) == ("here", "mend it")


def test_a_worker_that_dies_is_said(tmp_path: Path) -> None:
    with pytest.raises(TriviumError, match="a worker of note died") as caught:
        go(Note(tmp_path), ["die", "a", "b"])
    assert "run the same command again" in caught.value.fix


def test_a_script_without_a_guard_runs_once_and_leaves_nobody_behind(tmp_path: Path) -> None:
    """But the server, which waits for more without workers of its own until the script ends."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os\nfrom pathlib import Path\nfrom test_engine import Note, go\n"
        f"with open({str(tmp_path / 'ran')!r}, 'a') as file: file.write('x')\n"
        f"go(Note(Path({str(tmp_path)!r})), ['a', 'b'])\n"
        "def below(pid):\n"
        "    said = Path(f'/proc/{pid}/task/{pid}/children')\n"
        "    return said.read_text().split() if said.exists() else []\n"
        "print([one for child in below(os.getpid()) for one in below(child)])\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr[-2000:]
    assert (tmp_path / "ran").read_text() == "x" and (tmp_path / "a").exists() and (tmp_path / "b").exists()


def test_small_work_is_done_here(tmp_path: Path) -> None:
    go(Note(tmp_path), ["a", "b"], small=True)
    assert {file.read_text().split()[0] for file in tmp_path.iterdir()} == {str(os.getpid())}


def test_one_process_has_one_runner() -> None:
    engine.use("native")
    with pytest.raises(TriviumError, match="cannot take `runner: ray`"):
        engine.use("ray")
