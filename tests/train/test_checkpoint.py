"""Checkpoints: written beside the training, one at a time, and as many kept as asked for."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import tiny
import torch
from test_resume import Killed, checkpoints, killing
from tiny import same

from trivium.recipe.training import TrainingStage
from trivium.train import checkpoint
from trivium.train.optim import build


def writer(
    folder: Path, events, **options
) -> tuple[checkpoint.Writer, torch.nn.Module, torch.optim.Optimizer]:
    network = tiny.model(300)
    config: TrainingStage = tiny.config("sft")
    return checkpoint.Writer(folder, events.append, **options), network, build(network, config)


def test_what_is_written_is_the_moment_of_the_call_and_there_is_one_writer(tmp_path, monkeypatch):
    go, running, most = threading.Event(), [], []
    real = checkpoint.write

    def slow(*arguments):
        running.append(1)
        most.append(len(running))
        go.wait(60)
        result = real(*arguments)
        running.pop()
        return result

    monkeypatch.setattr(checkpoint, "write", slow)
    events = []
    saver, network, optimizer = writer(tmp_path, events)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with saver:
        saver.save(network, optimizer, {"step": 1})
        assert saver.busy  # the caller did not wait for the disk, which has no leave to go on yet
        saver.poll()
        assert events == []
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(1.0)
        threading.Timer(0.1, go.set).start()
        saver.save(network, optimizer, {"step": 2})  # waits for the first
        assert events == [{"event": "checkpoint", "step": 1}]
    assert most == [1, 1] and [event["step"] for event in events] == [1, 2]
    checkpoint.load(tmp_path / "step-00000001", network, optimizer)
    assert same(network.state_dict(), before)


def test_an_error_that_is_no_full_disk_is_raised_in_the_thread_that_trains(tmp_path, monkeypatch):
    def broken(*_):
        raise ValueError("no such luck")

    monkeypatch.setattr(checkpoint, "write", broken)
    saver, network, optimizer = writer(tmp_path, [])
    with pytest.raises(ValueError, match="no such luck"), saver:
        saver.save(network, optimizer, {"step": 1})


@pytest.mark.parametrize(
    ("last", "every", "kept"),
    [(2, None, [8, 9]), (1, None, [9]), (1, 3, [3, 6, 9]), (2, 4, [4, 8, 9]), (20, None, range(1, 10))],
)
def test_as_many_are_kept_as_asked_for(last, every, kept, tmp_path):
    tiny.saving("sft", tmp_path, keep_last=last, keep_every=every)
    assert checkpoints(tmp_path) == [f"step-{step:08d}" for step in kept]


def test_steps_between_checkpoints(tmp_path):
    tiny.phase("sft", tmp_path, keep_last=9, checkpoint_every="4 steps")
    assert checkpoints(tmp_path) == ["step-00000004", "step-00000008"]


def test_random_numbers_go_on_where_they_were(tmp_path):
    with pytest.raises(Killed):
        tiny.saving("sft", tmp_path, emit=killing(4))
    torch.manual_seed(11)  # a new process draws others

    def emit(event):
        if event["event"] == "resume":
            drawn.append(torch.rand(()))

    drawn: list[torch.Tensor] = []
    for _ in range(2):
        with pytest.raises(Killed):
            tiny.saving("sft", tmp_path, emit=lambda e: (emit(e), killing(4)(e)))
        torch.manual_seed(12)
    assert len(drawn) == 2 and drawn[0] == drawn[1]


def test_muon_is_resumed_too(tmp_path):
    expected, _ = tiny.saving("sft", tmp_path / "whole", optimizer="muon")
    with pytest.raises(Killed):
        tiny.saving("sft", tmp_path / "killed", optimizer="muon", emit=killing(6))
    assert same(tiny.saving("sft", tmp_path / "killed", optimizer="muon")[0], expected)
    assert not same(expected, tiny.saving("sft", tmp_path / "adamw")[0])
