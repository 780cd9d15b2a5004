"""What a launcher makes of ranks that were asked to stop, that failed, and that do not answer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from trivium.errors import DataError, Interrupted, Preempted, TrainingError
from trivium.files import read_json, write_json
from trivium.pipeline import job as jobs
from trivium.pipeline import launch, worker
from trivium.train import distributed

# Each stands for a rank: argv is the folder of the job. It touches `started` when it is ready to be asked.
RANKS = {
    "keeps a checkpoint": """
def stop(*_):
    (folder / "stopped.json").write_text(json.dumps({"kind": "Preempted", "what": "kept", "fix": "again"}))
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
""",
    "is done when it is asked": """
def stop(*_):
    (folder / "metrics.json").write_text('{"steps": 7}')
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
""",
    "dies": "",
    "does not listen": """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
""",
}
WRAPPED = """
import json, os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
{}
(folder / "rank-0.json").write_text(json.dumps({{"pid": os.getpid()}}))
(folder / "started").touch()
time.sleep(60)
"""


@pytest.fixture
def launched(tmp_path, monkeypatch):
    """Launches a rank of a kind on the real launcher, which gets a signal once the rank is ready: (result, context)."""
    popen, started = subprocess.Popen, []

    def call(kind: str, number: signal.Signals | None, hang: float = 20.0, before=lambda folder: None):
        def rank(command, **options):
            before(tmp_path / "ranks")
            code = [sys.executable, "-c", WRAPPED.format(RANKS[kind]), str(tmp_path / "ranks")]
            started.append(popen(code, start_new_session=options["start_new_session"]))
            return started[-1]

        def send() -> None:
            while not (tmp_path / "ranks" / "started").exists():
                threading.Event().wait(0.02)
            os.kill(os.getpid(), number)

        monkeypatch.setattr(launch.subprocess, "Popen", rank)
        monkeypatch.setattr(jobs, "describe", lambda ctx, parallel: {})
        options = SimpleNamespace(kind="local", restarts=0, hang=hang)
        ctx = SimpleNamespace(
            config=SimpleNamespace(launch=options), emit=print, work=tmp_path, stopping=None
        )
        parallel = SimpleNamespace(ranks=2, model_dump=lambda include: {})
        thread = threading.Thread(target=send) if number is not None else None
        if thread is not None:
            thread.start()
        try:
            return launch.launch(ctx, parallel), ctx
        finally:
            if thread is not None:
                thread.join()
            assert started[-1].poll() is not None  # nothing is left running

    return call


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGTERM, Preempted), (signal.SIGINT, Interrupted)])
@pytest.mark.parametrize(("kind", "words"), [("keeps a checkpoint", "kept"), ("dies", "stopped")])
def test_the_launcher_passes_a_signal_on_and_tells_how_it_ended(launched, number, raised, kind, words):
    with pytest.raises(Interrupted, match=words) as caught:
        launched(kind, number)
    assert type(caught.value) is raised


def test_a_rank_that_does_not_listen_is_killed(launched, monkeypatch):
    monkeypatch.setattr(launch, "GRACE", 0.1)
    with pytest.raises(Preempted, match="stopped"):
        launched("does not listen", signal.SIGTERM, hang=0.2)


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGTERM, Preempted), (signal.SIGINT, Interrupted)])
def test_a_stage_that_is_done_when_it_is_asked_to_stop_is_done(launched, number, raised):
    """Its artifact is stored, then the run stops."""
    metrics, ctx = launched("is done when it is asked", number)
    assert metrics == {"steps": 7} and type(ctx.stopping) is raised


def test_a_failure_that_would_come_again_ends_the_other_ranks_at_once(launched):
    def fail(folder: Path) -> None:
        jobs.tell_error(folder, 1, DataError("row 7 is empty", where="rows.jsonl", fix="fill it"))

    with pytest.raises(DataError, match="row 7 is empty"):
        launched("keeps a checkpoint", None, before=fail)


def test_the_first_failure_is_told_not_its_consequences(tmp_path):
    jobs.tell_error(tmp_path, 1, DataError("the cause"))
    write_json(
        tmp_path / "error-0.json", read_json(tmp_path / "error-1.json") | {"what": "later", "time": 9e9}
    )
    with pytest.raises(DataError, match="the cause"):
        jobs.result(tmp_path)


@pytest.mark.parametrize(("kind", "raised"), [("Preempted", Preempted), ("Interrupted", Interrupted)])
def test_how_the_ranks_were_stopped_is_kept(tmp_path, kind, raised):
    write_json(tmp_path / "stopped.json", {"kind": kind, "what": "stopped after step 3", "fix": "again"})
    with pytest.raises(Interrupted, match="after step 3") as caught:
        jobs.result(tmp_path)
    assert type(caught.value) is raised
    with pytest.raises(Interrupted) as caught:
        jobs.result(tmp_path, by_user=True)
    assert type(caught.value) is Interrupted


def test_a_finished_stage_is_finished_whatever_was_said_before(tmp_path):
    jobs.tell_stopped(tmp_path, Preempted("stopped after step 3"))
    jobs.tell_error(tmp_path, 1, TrainingError("gone"))
    write_json(tmp_path / "metrics.json", {"steps": 6})
    assert jobs.result(tmp_path) == {"steps": 6}


class Ranks:
    """The worker's `main` with another training: what it leaves beside the job, and what it raises."""

    def __init__(self, folder: Path, monkeypatch) -> None:
        self.folder, self.monkeypatch = folder, monkeypatch

    def __call__(self, error: BaseException | None, rank: str = "0") -> int:
        def train(path: Path, rank: int) -> None:
            if error is not None:
                raise error
            write_json(path.with_name("metrics.json"), {})

        self.monkeypatch.setenv("RANK", rank)
        self.monkeypatch.setattr(worker, "_train", train)
        return worker.main(self.folder / "job.json")


def test_a_rank_leaves_how_it_ended(tmp_path, monkeypatch):
    ranks = Ranks(tmp_path, monkeypatch)
    assert ranks(Preempted("stopped")) == jobs.REQUEUE and (tmp_path / "stopped.json").exists()
    assert ranks(None) == 0 and not (tmp_path / "stopped.json").exists()  # that of the ranks before
    jobs.clear(tmp_path)
    assert ranks(ValueError("shapes differ"), rank="1") == TrainingError.exit_code
    with pytest.raises(TrainingError, match=r"rank 1 failed: ValueError: shapes differ \(test_stopping.py"):
        jobs.result(tmp_path)


@pytest.mark.parametrize(
    "words",
    ["[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:4711",
     "Timed out waiting 15000ms for recv operation to complete"],
)  # fmt: skip
def test_a_rank_that_lost_another_says_nothing_and_is_started_again(tmp_path, monkeypatch, words):
    ranks = Ranks(tmp_path, monkeypatch)
    with pytest.raises(RuntimeError):
        ranks(RuntimeError(words))
    assert jobs.result(tmp_path) is None
    assert not distributed.lost(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_a_rank_whose_launcher_is_gone_ends(tmp_path):
    """Nothing is trained by nobody: a new run would use the same folder."""
    launcher = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    code = f"import time, sys; from trivium.pipeline import worker; worker._watch({launcher.pid}); time.sleep(60)"
    rank = subprocess.Popen([sys.executable, "-c", code])
    launcher.communicate(b"\n")
    assert rank.wait(timeout=50) == -signal.SIGTERM


def test_a_job_is_cleared_of_what_an_earlier_one_left(tmp_path):
    for name in ("stopped.json", "error-0.json", "metrics.json", "events.jsonl", "rank-0.json", "output.log"):
        (tmp_path / name).write_text(json.dumps({}))
    jobs.clear(tmp_path)
    assert not list(tmp_path.iterdir())
