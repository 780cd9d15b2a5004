"""Killed and resumed equals never stopped, for the phases that hold more than one model or write their own data."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import tiny
from tiny import same

from trivium.errors import RecipeError
from trivium.train import checkpoint

CASES = {
    "reward": ("reward", {}),
    "kto": ("kto", {}),
    "ppo": ("ppo", {}),
    "ppo, sets of two batches, twice": ("ppo", {"minibatches": 2, "updates": 2}),
    "ppo, one trunk": ("ppo", {"share_trunk": True}),
    "ppo, adapter": ("ppo", {"adapter": {"rank": 2, "dropout": 0.1}}),
    "grpo": ("grpo", {}),
    "grpo, stale sets": ("grpo", {"staleness": 2, "minibatches": 2}),
    "ppo, sets made ahead": ("ppo", {"staleness": 1, "minibatches": 2, "rollout_device": "cpu"}),
    "distill": ("distill", {}),
}


@cache
def never_stopped(name: str):
    with TemporaryDirectory() as folder:
        kind, changes = CASES[name]
        return tiny.phase(kind, Path(folder), **changes)


class Killed(BaseException):
    """Nothing catches it: as good as a kill, but for the process."""


def killing(what: str, number: int):
    """Dies at an event: a step that was taken, or a set of rollouts that was written and not yet used."""

    def emit(event):
        if event["event"] == what and event["step" if what == "step" else "set"] == number:
            raise Killed

    return emit


@pytest.mark.parametrize("name", CASES)
def test_killed_between_steps(name, tmp_path):
    kind, changes = CASES[name]
    for step in (3, 6):
        with pytest.raises(Killed):
            tiny.saving(kind, tmp_path, emit=killing("step", step), **changes)
    weights, metrics = tiny.phase(kind, tmp_path, **changes)
    expected, wanted = never_stopped(name)
    assert same(weights, expected)
    for field in ("curve", "before", "after", "steps", "tokens"):
        assert metrics.get(field) == wanted.get(field), field


@pytest.mark.parametrize("name", [name for name in CASES if "po" in name])
def test_killed_when_a_set_is_written_and_between_checkpoints(name, tmp_path):
    kind, changes = CASES[name]
    with pytest.raises(Killed):
        tiny.phase(kind, tmp_path, emit=killing("rollouts", 1), checkpoint_every="4 steps", **changes)
    with pytest.raises(Killed):
        tiny.phase(kind, tmp_path, emit=killing("step", 7), checkpoint_every="4 steps", **changes)
    found = [path.name for path in checkpoint.steps(tmp_path / "work" / "checkpoints")]
    assert found == ["step-00000004"]
    assert same(tiny.phase(kind, tmp_path, **changes)[0], never_stopped(name)[0])


def test_these_phases_really_move_their_weights(tmp_path):
    """The comparison can fail: with another learning rate every network ends elsewhere."""
    for name in ("reward", "kto", "ppo", "grpo", "distill"):
        other = tiny.phase(CASES[name][0], tmp_path / name, lr=1e-3)[0]
        expected = never_stopped(name)[0]
        moved = [key for key in expected if not (other[key] == expected[key]).all()]
        assert len(moved) > len(expected) / 2, (name, moved)


@pytest.mark.parametrize("kind", ["ppo", "grpo"])
def test_sets_made_ahead_while_training_goes_on_are_those_made_in_between(kind, tmp_path):
    changes = {"staleness": 1, "minibatches": 2}
    waited, _ = tiny.phase(kind, tmp_path / "waited", **changes)
    ahead, _ = tiny.phase(kind, tmp_path / "ahead", rollout_device="cpu", **changes)
    assert same(ahead, waited)
    fresh, _ = tiny.phase(kind, tmp_path / "fresh", minibatches=2)
    assert not same(ahead, fresh)


def test_a_rollout_device_that_is_not_there_is_named(tmp_path):
    with pytest.raises(RecipeError, match="cuda:7"):
        tiny.phase("grpo", tmp_path, staleness=1, rollout_device="cuda:7")
