"""The guard: one broken batch changes nothing but that it is left out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tiny
from pydantic import ValidationError
from test_resume import Killed, killing
from tiny import STEPS, same

from trivium.batches import context
from trivium.batches.context import Phase
from trivium.batches.offline import chat
from trivium.batches.rows import Shuffled
from trivium.errors import TrainingError
from trivium.objectives import NextToken
from trivium.phases import PHASES
from trivium.recipe.training import Guard as Config
from trivium.recipe.training import SftStage
from trivium.train.guard import Guard, fresh
from trivium.types import Loss

NORMAL = [float(x) for x in np.random.default_rng(0).normal(3.0, 0.1, 200)]


def guard(**changes):
    return Guard(Config(**{"on_bad": "skip", "z": 8.0, "window": 64, **changes}), fresh())


def judged(guard, losses):
    """The places of the losses that are refused."""
    bad = []
    for place, loss in enumerate(losses):
        if guard.judge(loss, 1.0) is None:
            guard.accept(loss)
        else:
            bad.append(place)
    return bad


@pytest.mark.parametrize("broken", [[math.nan], [1e30], [math.inf], [math.nan, 1e30, 1e30, math.nan]])
def test_broken_losses_are_refused_alone_and_a_later_spike_is_still_caught(broken):
    """The rule that this replaces let one NaN refuse the next 129 steps, and one 1e30 hide a later 50."""
    after = [*NORMAL[100:110], 50.0, *NORMAL[110:]]
    watched, expected = guard(), [100 + i for i in range(len(broken))]
    assert judged(watched, [*NORMAL[:100], *broken, *after]) == [*expected, 110 + len(broken)]
    clean = guard()
    assert judged(clean, NORMAL) == []
    assert watched.state["accepted"] == clean.state["accepted"] == NORMAL[-64:]


def test_a_falling_loss_is_no_spike_and_a_standing_one_neither():
    assert judged(guard(), [10 * 0.99**n for n in range(300)]) == []
    assert judged(guard(), [2.0 + 1e-9 * (n % 3) for n in range(100)]) == []


def test_a_window_is_judged_by_only_when_it_is_there():
    assert judged(guard(), [3.0] * 15 + [1e6]) == []
    assert judged(guard(), [3.0] * 16 + [1e6]) == [16]
    assert judged(guard(z=None), [3.0] * 16 + [1e6, math.nan]) == [17]


def test_a_gradient_that_is_not_finite_is_refused():
    assert "norm nan" in guard().judge(3.0, math.nan)


def test_too_many_refused_batches_end_the_run_and_few_far_apart_do_not():
    watched = guard(max_skips=2, window=10)
    for step in (1, 2, 30, 31):
        watched.refuse(step, "loss nan")
    with pytest.raises(TrainingError, match=r"loss nan; .*; 3 batches were refused within 10 steps"):
        watched.refuse(35, "loss nan")


def test_nonsense_is_no_config():
    for wrong in ({"z": 0}, {"window": 2}, {"on_bad": "ignore"}):
        with pytest.raises(ValidationError):
            Config(**wrong)


POISON = 5
"""The batch (by its position in the data) whose loss is broken."""


class Positions(Shuffled):
    """Batches that tell which they are, and leave `without` out as if it had never been there."""

    without: frozenset[int] = frozenset()
    last = -1

    def batch(self, step):
        left = sorted(self.without)
        for place in left:
            step += place <= step
        type(self).last = step
        return super().batch(step)


@pytest.fixture
def poisoned(monkeypatch):
    """`poisoned(value, without)`: the loss of batch POISON is multiplied by value (none is where value is 1)."""

    def arrange(value, without=(), reported=None):
        class Poisoned(NextToken):
            def __call__(self, out, batch):
                loss = super().__call__(out, batch)
                factor = value if Positions.last == POISON and loss.total.requires_grad else 1.0
                return Loss(loss.total * factor, loss.metrics)

        monkeypatch.setattr(Positions, "without", frozenset(without))
        monkeypatch.setattr(context, "Shuffled", Positions)
        monkeypatch.setitem(PHASES, "sft", Phase(SftStage, chat, lambda config: Poisoned()))

    return arrange


def skipping(on_bad, **changes):
    return {"guard": {"on_bad": on_bad, "window": 8, "z": 50.0}, **changes}


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
@pytest.mark.parametrize("on_bad", ["skip", "rewind"])
def test_it_is_as_if_the_batch_had_never_been_there(on_bad, value, tmp_path, poisoned):
    poisoned(1.0, without=[POISON])
    expected, wanted = tiny.saving("sft", tmp_path / "without", **skipping("skip"))
    poisoned(value)
    events = []
    weights, metrics = tiny.saving("sft", tmp_path / "with", emit=events.append, **skipping(on_bad))
    assert same(weights, expected) and metrics["curve"] == wanted["curve"]
    (event,) = [event for event in events if event["event"] == "guard"]
    assert event["step"] == event["position"] == POISON and event["action"] == on_bad
    assert len(event["batch"]["items"]) == 4


@pytest.mark.parametrize("every", [1, 2, 3, 4, 100])
def test_rewinding_leaves_out_what_came_since_the_checkpoint(every, tmp_path, poisoned):
    back = POISON // every * every
    poisoned(1.0, without=range(back, POISON + 1))
    expected, _ = tiny.saving("sft", tmp_path / "without", **skipping("skip"))
    poisoned(math.nan)
    weights, _ = tiny.saving(
        "sft", tmp_path / "with", **skipping("rewind", checkpoint_every=f"{every} steps")
    )
    assert same(weights, expected)


@pytest.mark.parametrize("on_bad", ["skip", "rewind"])
def test_killed_after_a_refused_batch_is_as_never_stopped(on_bad, tmp_path, poisoned):
    poisoned(math.nan)
    often = skipping(on_bad, checkpoint_every="2 steps")
    expected, _ = tiny.saving("sft", tmp_path / "whole", **often)
    for step in (5, 6, 8):
        with pytest.raises(Killed):
            tiny.saving("sft", tmp_path / "killed", emit=killing(step), **often)
    assert same(tiny.saving("sft", tmp_path / "killed", **often)[0], expected)


def test_a_run_that_only_breaks_ends(tmp_path, monkeypatch):
    class Broken(NextToken):
        def __call__(self, out, batch):
            loss = super().__call__(out, batch)
            return Loss(loss.total * math.nan, loss.metrics)

    monkeypatch.setitem(PHASES, "sft", Phase(SftStage, chat, lambda config: Broken()))
    for on_bad in ("skip", "rewind"):
        events = []
        with pytest.raises(TrainingError, match="6 batches were refused"):
            tiny.saving("sft", tmp_path / on_bad, emit=events.append, **skipping(on_bad))
        assert [event["event"] for event in events].count("guard") == 6
        assert STEPS > 6
