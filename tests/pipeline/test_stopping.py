"""What a launcher makes of ranks that were asked to stop."""

import os
import signal
import sys
import threading
from types import SimpleNamespace

import pytest

from trivium.errors import Interrupted, Preempted
from trivium.files import write_json
from trivium.pipeline import launch

RANK = """
import json, pathlib, signal, sys, time
def stop(*_):
    pathlib.Path(sys.argv[1]).write_text(json.dumps({"kind": "Preempted", "what": "kept", "fix": "again"}))
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
pathlib.Path(sys.argv[2]).touch()
time.sleep(60)
"""


@pytest.mark.parametrize(("kind", "raised"), [("Preempted", Preempted), ("Interrupted", Interrupted)])
def test_how_the_ranks_were_stopped_is_kept(tmp_path, kind, raised):
    write_json(tmp_path / "stopped.json", {"kind": kind, "what": "stopped after step 3", "fix": "again"})
    with pytest.raises(Interrupted, match="after step 3") as caught:
        launch._raise_what_stopped(tmp_path)
    assert type(caught.value) is raised
    with pytest.raises(Interrupted) as caught:
        launch._raise_what_stopped(tmp_path, by_user=True)
    assert type(caught.value) is Interrupted


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGTERM, Preempted), (signal.SIGINT, Interrupted)])
def test_the_launcher_passes_a_signal_on_and_waits_for_the_checkpoint(tmp_path, monkeypatch, number, raised):
    """The launcher's own process gets the signal; the ranks are stood for by a process that behaves like one."""
    started = tmp_path / "started"
    popen = launch.subprocess.Popen

    def rank(command, **options):
        return popen(
            [sys.executable, "-c", RANK, str(tmp_path / "stopped.json"), str(started)],
            start_new_session=options["start_new_session"],
        )

    monkeypatch.setattr(launch.subprocess, "Popen", rank)
    ctx = SimpleNamespace(config=SimpleNamespace(launch=SimpleNamespace(restarts=0, hang=20)), emit=print)

    def send():
        while not started.exists():
            threading.Event().wait(0.02)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    with pytest.raises(Interrupted, match="kept") as caught:
        launch._local(ctx, tmp_path / "job.json", 2)
    thread.join()
    assert type(caught.value) is raised
