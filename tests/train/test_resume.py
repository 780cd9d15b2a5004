"""Killed and resumed equals never stopped: bit by bit, for every phase, wherever the kill falls."""

from __future__ import annotations

import errno
import os
import resource
import signal
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import tiny
from forked import Forked
from tiny import STEPS, same

from trivium.errors import Interrupted
from trivium.files import TEMPORARY
from trivium.train import checkpoint

PHASES = pytest.mark.parametrize("kind", ["pretrain", "sft", "dpo"])


@cache
def never_stopped(kind):
    with TemporaryDirectory() as folder:
        return tiny.phase(kind, Path(folder))


class Killed(BaseException):
    """Nothing catches it: as good as a kill, but for the process."""


def killing(step: int, then=None):
    def emit(event):
        if event["event"] == "step" and event["step"] == step:
            if then is None:
                raise Killed
            then()

    return emit


def checkpoints(folder: Path) -> list[str]:
    return [path.name for path in checkpoint.steps(folder / "work" / "checkpoints")]


@PHASES
@pytest.mark.parametrize("seed", range(2))
def test_killed_at_random_steps(kind, seed, tmp_path):
    for step in sorted(np.random.default_rng(seed).choice(np.arange(1, STEPS + 1), 3, replace=False)):
        with pytest.raises(Killed):
            tiny.saving(kind, tmp_path, emit=killing(step))
    weights, metrics = tiny.phase(kind, tmp_path)
    expected, wanted = never_stopped(kind)
    assert same(weights, expected)
    for name in ("curve", "before", "after", "steps", "tokens"):
        assert metrics[name] == wanted[name], name


@pytest.mark.parametrize("kind", ["sft", "kto"])
def test_killed_before_the_last_step_of_an_epoch(kind, tmp_path):
    epochs = {"steps": None, "epochs": 1.0}
    expected, wanted = tiny.phase(kind, tmp_path / "never", **epochs)
    for step in (wanted["steps"] - 1, wanted["steps"]):
        with pytest.raises(Killed):
            tiny.saving(kind, tmp_path / "killed", emit=killing(step), **epochs)
    weights, metrics = tiny.phase(kind, tmp_path / "killed", **epochs)
    assert same(weights, expected) and metrics["curve"] == wanted["curve"]
    assert metrics["tokens"] < metrics["steps"] * 4 * metrics["data"]["row_tokens"]


def test_killed_between_checkpoints(tmp_path):
    """Steps that no checkpoint holds are done again."""
    with pytest.raises(Killed):
        tiny.saving("sft", tmp_path, emit=killing(4))
    with pytest.raises(Killed):
        tiny.phase("sft", tmp_path, emit=killing(7))
    assert checkpoints(tmp_path)[-1] == "step-00000003"
    assert same(tiny.phase("sft", tmp_path)[0], never_stopped("sft")[0])


@pytest.mark.parametrize(
    "write", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]
)
def test_killed_in_the_middle_of_a_checkpoint(write, tmp_path, monkeypatch):
    def interrupted(real, before):
        def writer(*arguments):
            path = next(argument for argument in arguments if isinstance(argument, Path))
            if path.name == write and before.pop("left", None) is None:
                path.write_bytes(b"half")
                raise Killed
            return real(*arguments)

        return writer

    first = {"left": True}  # the first checkpoint is written whole, the second is not
    for name in ("write_tensors", "write_json"):
        monkeypatch.setattr(checkpoint, name, interrupted(getattr(checkpoint, name), first))
    with pytest.raises(Killed):
        tiny.saving("dpo", tmp_path)
    monkeypatch.undo()
    assert checkpoints(tmp_path) == ["step-00000001"]
    assert same(tiny.phase("dpo", tmp_path)[0], never_stopped("dpo")[0])


SIGKILLED = """
import os, signal, sys
from pathlib import Path
import tiny
from trivium.train import checkpoint

kind, where, number = sys.argv[2], sys.argv[3], int(sys.argv[4])
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
emit = lambda event: None
if where == "save":  # a few files of the checkpoint are there, under its temporary name
    calls, real = [], checkpoint.write_json
    checkpoint.write_json = lambda *a: die() if len(calls) == number else (calls.append(1), real(*a))
else:
    emit = lambda event: event.get("step") == number and event["event"] == where and die()
tiny.saving(kind, Path(sys.argv[1]), emit=emit)
"""


@pytest.mark.parametrize(("kind", "where", "number"), [("sft", "save", 5), ("dpo", "checkpoint", 6)])
def test_sigkill(kind, where, number, tmp_path):
    process = Forked(SIGKILLED, tmp_path, kind, where, number, path=[Path(__file__).parent])
    assert process.wait() == -signal.SIGKILL
    folder = tmp_path / "work" / "checkpoints"
    assert bool(list(folder.glob(f"{TEMPORARY}*"))) == (where == "save")
    events = []
    weights, _ = tiny.saving(kind, tmp_path, emit=events.append)
    assert [event["step"] for event in events if event["event"] == "resume"] == [2 if where == "save" else 6]
    assert same(weights, never_stopped(kind)[0])
    assert not list(folder.glob(f"{TEMPORARY}*"))  # what the kill left does not pile up


@PHASES
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_gives_a_checkpoint_and_a_clean_exit(kind, number, tmp_path):
    handler, events = signal.getsignal(number), []

    def emit(event):
        events.append(event)
        if event["event"] == "step" and event["step"] == 4:
            os.kill(os.getpid(), number)

    with pytest.raises(Interrupted, match=r"stopped after step [45] of 10; the checkpoint is kept"):
        tiny.phase(kind, tmp_path, emit=emit)
    assert [event["event"] for event in events][-1] == "checkpoint"
    assert checkpoints(tmp_path) == [f"step-{events[-1]['step']:08d}"]
    assert signal.getsignal(number) is handler
    assert same(tiny.phase(kind, tmp_path)[0], never_stopped(kind)[0])


def test_a_second_ctrl_c_takes_its_usual_effect(tmp_path):
    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        tiny.saving("sft", tmp_path, emit=killing(3, then=twice))
    assert same(tiny.phase("sft", tmp_path)[0], never_stopped("sft")[0])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "a flipped bit in the weights": lambda folder: flip(folder / "model.safetensors"),
    "a flipped bit in the optimizer": lambda folder: flip(folder / "optimizer.safetensors"),
    "a shortened state": lambda folder: os.truncate(folder / "state.json", 9),
    "an empty manifest": lambda folder: os.truncate(folder / "manifest.json", 0),
    "a missing manifest": lambda folder: (folder / "manifest.json").unlink(),
    "missing weights": lambda folder: (folder / "model.safetensors").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_newest_checkpoint_is_named_and_passed_over(damage, tmp_path):
    with pytest.raises(Killed):
        tiny.saving("sft", tmp_path, emit=killing(7))
    assert checkpoints(tmp_path) == ["step-00000005", "step-00000006"]
    damage(tmp_path / "work" / "checkpoints" / "step-00000006")
    events = []
    weights, _ = tiny.saving("sft", tmp_path, emit=events.append)
    told = [event["message"] for event in events if event["event"] == "warning"]
    (warning,) = [message for message in told if "checkpoint" in message]
    assert warning.startswith("checkpoint step-00000006 is passed over")
    assert [event["step"] for event in events if event["event"] == "resume"] == [5]
    assert same(weights, never_stopped("sft")[0])


def test_with_every_checkpoint_damaged_it_starts_anew_and_keeps_new_ones(tmp_path):
    with pytest.raises(Killed):
        tiny.saving("sft", tmp_path, emit=killing(7))
    for name in checkpoints(tmp_path):
        flip(tmp_path / "work" / "checkpoints" / name / "model.safetensors")
    with pytest.raises(Killed):
        tiny.saving("sft", tmp_path, emit=killing(4))
    assert checkpoints(tmp_path) == ["step-00000002", "step-00000003"]  # not pushed out by damaged later ones
    events = []
    assert same(tiny.saving("sft", tmp_path, emit=events.append)[0], never_stopped("sft")[0])
    assert [event["step"] for event in events if event["event"] == "resume"] == [3]


def test_a_full_disk_warns_and_training_goes_on(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "write", full)
    events = []
    weights, _ = tiny.saving("sft", tmp_path, emit=events.append)
    told = [event["message"] for event in events if event["event"] == "warning"]
    warnings = [message for message in told if "checkpoint" in message]
    assert len(warnings) == STEPS and "no checkpoint at step 1: " in warnings[0]
    assert "No space left" in warnings[0] and same(weights, never_stopped("sft")[0])


@contextmanager
def files_of_at_most(size: int):
    """The operating system refuses longer files, which meets a writer as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_really_fails_loses_nothing(tmp_path):
    with pytest.raises(Killed):
        tiny.saving("sft", tmp_path, emit=killing(4))
    before, events = checkpoints(tmp_path), []

    def emit(event):
        events.append(event)
        if event.get("step") == 7:
            os.kill(os.getpid(), signal.SIGINT)

    with files_of_at_most(20_000), pytest.raises(Interrupted, match="no checkpoint could be written"):
        tiny.saving("sft", tmp_path, emit=emit)
    assert [event["event"] for event in events].count("warning") >= 4
    assert checkpoints(tmp_path) == before
    assert not list((tmp_path / "work" / "checkpoints").glob(f"{TEMPORARY}*"))
    assert same(tiny.phase("sft", tmp_path)[0], never_stopped("sft")[0])


def test_resuming_needs_no_luck(tmp_path):
    """The comparison above can fail: from another start, the end is another."""
    network = tiny.model(tiny.chat_tokenizer().vocab_size)
    network.model.norm.weight.data.mul_(1.01)
    assert not same(tiny.phase("sft", tmp_path, network=network)[0], never_stopped("sft")[0])
