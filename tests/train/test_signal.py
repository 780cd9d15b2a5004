"""Replies from which nothing is learned: counted from what is on the disk, warned about, and an end to the phase where asked."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from trivium.batches.advantages import group_advantages
from trivium.batches.signal import has_signal
from trivium.errors import TrainingError
from trivium.model import scalar
from trivium.train import checkpoint


def indifferent(kind: str, folder: Path, emit=lambda event: None, **changes):
    """A phase whose reward model gives every reply the same."""
    impartial(folder)
    return tiny.saving(kind, folder, emit=emit, **changes)


def impartial(folder: Path) -> None:
    """The reward model, unless it is there: ranks that share a folder find it."""
    chat = tiny.chat_tokenizer()
    judge = scalar.Scalar(tiny.model(chat.vocab_size, seed=1))
    torch.nn.init.zeros_(judge.score.weight)
    if not (folder / "reward_model").exists():
        scalar.save(judge, folder / "reward_model", eos=chat.end, pad=chat.pad)


@given(
    st.lists(st.sampled_from([0.0, 0.1, 1.0]), min_size=8, max_size=8),
    st.lists(st.booleans(), min_size=8, max_size=8),
    st.sampled_from([2, 4]),
)
def test_a_set_has_a_signal_where_a_reply_in_which_one_may_learn_has_an_advantage(rewards, learned, group):
    mask = torch.tensor(learned).float()[:, None]
    worth = group_advantages(torch.tensor(rewards), group, scale=False).abs() > 1e-6
    groups = worth.view(-1, group).any(-1) & (mask.view(-1, group) > 0).any(-1)
    made = {"reward": torch.tensor(rewards), "loss_mask": mask}
    assert has_signal(made, group) == bool(groups.any())
    assert has_signal(made, 1) == (len(set(rewards)) > 1 and any(learned))


@pytest.mark.parametrize("kind", tiny.ONLINE)
def test_a_warning_after_the_first_sets_and_the_phase_goes_on(kind, tmp_path):
    events = []
    _, metrics = indifferent(kind, tmp_path, events.append)
    [event] = [event for event in events if event["event"] == "no_signal"]
    assert (event["set"], event["sets"], event["reward"]) == (2, 3, 0.0)
    [said] = [
        e["message"] for e in events if e["event"] == "warning" and "no reply was worth" in e["message"]
    ]
    assert "in the last 3 sets" in said and "between 0 and 0" in said
    assert metrics["steps"] == tiny.STEPS


@pytest.mark.parametrize("kind", tiny.ONLINE)
def test_rewards_that_differ_are_a_signal(kind, tmp_path):
    events = []
    tiny.saving(kind, tmp_path, emit=events.append, stop_without_signal=1)
    assert not [event for event in events if event["event"] == "no_signal"]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("kind", tiny.ONLINE)
def test_a_phase_without_a_signal_ends_at_the_same_set_however_often_it_was_killed(kind, tmp_path):
    said = []
    for folder, kills in (("never", ()), ("killed", (2, 5))):

        def emit(event, kills=kills):
            if event["event"] == "step" and event["step"] in kills:
                raise Killed

        for _ in kills:
            with pytest.raises(Killed):
                indifferent(kind, tmp_path / folder, emit, stop_without_signal=4)
            kills = kills[1:]
        with pytest.raises(TrainingError, match="in the last 4 sets") as caught:
            indifferent(kind, tmp_path / folder, stop_without_signal=4)
        assert "stop_without_signal: 4" in caught.value.what and caught.value.fix
        kept = [path.name for path in checkpoint.steps(tmp_path / folder / "work" / "checkpoints")]
        said.append((caught.value.what, kept[-1]))
    assert said[0] == said[1] and said[0][1] == "step-00000006"


def sets(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "work" / "rollouts").glob("set-*"))


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("ThreadPoolExecutor")]


@pytest.mark.parametrize("device", [None, "cpu"])
def test_no_set_is_written_after_the_last_step(device, tmp_path):
    changes = {"staleness": 2, "minibatches": 2, "steps": 6, "rollout_device": device}
    before = threads()
    tiny.saving("grpo", tmp_path, **changes)
    assert len(sets(tmp_path)) == 3
    assert threads() == before


def test_the_thread_that_writes_ahead_ends_with_an_error_too(tmp_path):
    before = threads()

    def emit(event):
        if event["event"] == "step" and event["step"] == 3:
            assert threads() != before
            raise Killed

    with pytest.raises(Killed):
        tiny.saving("grpo", tmp_path, emit=emit, staleness=1, rollout_device="cpu")
    assert threads() == before
