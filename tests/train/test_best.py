"""The weights of the best look are what a phase leaves; and where no look is better for long, it ends."""

from __future__ import annotations

import time

import pytest
import tiny
import torch
from safetensors.torch import load_file
from tiny import same

from trivium.errors import RecipeError
from trivium.train import checkpoint

# so high a rate that the held-out loss falls and rises again
WILD = {
    "lr": 0.2,
    "warmup": 0.5,
    "schedule": "constant",
    "validate_every": 2,
    "steps": 20,
    "checkpoint_every": "1h",
}


def looks(events, metric="loss") -> dict[int, float]:
    return {e["step"]: e[metric] for e in events if e["event"] == "validation" and "step" in e}


@pytest.fixture(scope="module")
def last(tmp_path_factory):
    """(looks at the held-out loss by step, weights, checkpoints of all steps) of the run that keeps its last weights."""
    events, folder = [], tmp_path_factory.mktemp("last")
    every = {**WILD, "checkpoint_every": "1 step", "keep_last": 99}
    weights, metrics = tiny.phase("sft", folder, emit=events.append, **every)
    assert "best" not in metrics
    return looks(events), weights, folder / "work" / "checkpoints"


def at(folder, step: int) -> dict[str, torch.Tensor]:
    return load_file(checkpoint.place_of(folder, step) / "model.safetensors")


def best_of(found: dict[int, float]) -> int:
    return min(found, key=lambda step: found[step])


def test_the_best_look_is_what_the_phase_leaves(last, tmp_path):
    found, weights, folder = last
    step = best_of(found)
    assert 2 < step < 20, "the example has its best look in the middle"
    kept, metrics = tiny.phase("sft", tmp_path / "kept", keep_best="loss", **WILD)
    assert same(kept, at(folder, step)) and not same(kept, weights)
    assert metrics["best"]["step"] == step and metrics["best"]["value"] == found[step]
    assert metrics["after"]["loss"] == pytest.approx(found[step], abs=1e-6) and metrics["steps"] == 20


def test_a_metric_of_which_more_is_better(tmp_path):
    events = []
    _, metrics = tiny.phase("dpo", tmp_path, emit=events.append, keep_best="margin", **{**WILD, "lr": 1e-3})
    found = looks(events, "margin")
    assert metrics["best"]["value"] == max(found.values()) == metrics["after"]["margin"]


class Killed(BaseException):
    pass


def test_killed_after_the_best_look_and_before_the_last_step(last, tmp_path):
    step = best_of(last[0])
    wanted, _ = tiny.phase("sft", tmp_path / "never", keep_best="loss", **WILD)
    changes = {**WILD, "checkpoint_every": "1 step", "keep_last": 1, "keep_best": "loss"}

    def killing(where):
        def emit(event):
            if event["event"] == "step" and event["step"] == where:
                raise Killed

        return emit

    for where in (step - 1, step + 1, 19):
        with pytest.raises(Killed):
            tiny.phase("sft", tmp_path / "killed", emit=killing(where), **changes)
    kept = [path.name for path in checkpoint.steps(tmp_path / "killed" / "work" / "checkpoints")]
    assert f"step-{step:08d}" in kept and len(kept) <= 3, "the best one stays however many come after it"
    assert same(tiny.phase("sft", tmp_path / "killed", **changes)[0], wanted)


def patient(found: dict[int, float], patience: int) -> int:
    """The look that is the best one when `patience` looks after it were no better."""
    steps = sorted(found)
    for step in steps:
        since = [found[later] for later in steps if later > step][:patience]
        if (
            found[step] == min(found[at] for at in steps if at <= step)
            and len(since) == patience
            and min(since) >= found[step]
        ):
            return step
    raise AssertionError(f"no look of {found} is followed by {patience} that are no better")


def test_patience_ends_training(last, tmp_path):
    found, _, folder = last
    # with another processor's roundings the best look of all may come after training has ended
    step = patient(found, 2)
    kept, metrics = tiny.phase("sft", tmp_path, keep_best="loss", patience=2, **WILD)
    assert metrics["steps"] == step + 4 < 20
    assert metrics["best"] == {"metric": "loss", "value": found[step], "step": step, "since": 2}
    assert metrics["tokens"] == (step + 4) * 4 * 32
    assert same(kept, at(folder, step))


def test_patience_alone_leaves_the_last_weights(last, tmp_path):
    weights, metrics = tiny.phase("sft", tmp_path, patience=2, **WILD)
    assert metrics["steps"] < 20 and same(weights, at(last[2], metrics["steps"]))
    assert metrics["best"]["step"] == metrics["steps"] - 4


def test_best_weights_that_are_gone_are_told(last, tmp_path):
    events, folder, step = [], tmp_path / "work" / "checkpoints", best_of(last[0])

    def emit(event):
        events.append(event)
        if event["event"] == "step" and event["step"] == 19:
            weights = checkpoint.place_of(folder, step) / "model.safetensors"
            until = time.monotonic() + 300  # it is written by a thread of its own
            while not weights.exists() and time.monotonic() < until:
                time.sleep(0.01)
            weights.write_bytes(b"")

    weights, metrics = tiny.phase("sft", tmp_path, emit=emit, keep_best="loss", **WILD)
    assert same(weights, last[1]) and metrics["best"]["lost"]
    assert any("could not be kept" in str(event.get("message")) for event in events)


def test_what_cannot_be_chosen_by_is_refused_before_the_first_step(tmp_path):
    with pytest.raises(RecipeError, match="measures no 'accuracy'") as caught:
        tiny.phase("sft", tmp_path, keep_best="accuracy", **WILD)
    assert "loss" in caught.value.fix and not checkpoint.steps(tmp_path / "work" / "checkpoints")
