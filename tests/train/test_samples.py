"""Samples of text as training goes: what is asked, when, and that training is the same with and without."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
import tiny
import torch
from rich.console import Console
from tiny import same

from trivium import console
from trivium.batches import samples
from trivium.train import progress

OFTEN = {"every": "2 steps", "tokens": 5}


def looks(events):
    return [event for event in events if event["event"] == "samples"]


@pytest.mark.parametrize("kind", [kind for kind in tiny.KINDS if kind != "reward"])
def test_training_is_the_same_with_and_without(kind, tmp_path):
    events, random = [], []
    for number, asked in enumerate((None, OFTEN)):
        torch.manual_seed(3)
        events.clear()
        weights, metrics = tiny.phase(kind, tmp_path / str(number), emit=events.append, samples=asked)
        random.append((weights, torch.get_rng_state(), metrics["curve"]))
    assert [event["step"] for event in looks(events)] == [2, 4, 6, 8, 10]
    assert metrics["samples"] == [{"step": e["step"], "samples": e["samples"]} for e in looks(events)]
    (plain, before, curve), (sampled, after, same_curve) = random
    assert same(plain, sampled) and torch.equal(before, after) and curve == same_curve


class Killed(BaseException):
    pass


@pytest.mark.parametrize("kind", ["pretrain", "sft"])
def test_a_resumed_run_has_the_samples_of_one_that_never_stopped(kind, tmp_path):
    def killing(event):
        if event["event"] == "step" and event["step"] == 7:
            raise Killed

    weights, metrics = tiny.phase(kind, tmp_path / "calm", samples=OFTEN)
    with pytest.raises(Killed):
        tiny.saving(kind, tmp_path / "killed", emit=killing, samples=OFTEN)
    again, resumed = tiny.saving(kind, tmp_path / "killed", samples=OFTEN)
    assert same(weights, again)
    assert resumed["samples"] == metrics["samples"] and len(metrics["samples"]) == 5


def test_the_first_words_of_what_is_held_out_are_the_prompts(tmp_path):
    events = []
    tiny.phase("pretrain", tmp_path / "base", emit=events.append, samples={**OFTEN, "count": 3})
    held = [record["text"].split()[:8] for record in tiny.records("pretrain")[:3]]
    assert [one["prompt"].split() for one in looks(events)[0]["samples"]] == held
    events.clear()
    tiny.phase("dpo", tmp_path / "dpo", emit=events.append, samples=OFTEN)
    asked = [record["prompt"][0]["content"] for record in tiny.records("dpo")[:2]]
    assert [one["prompt"] for one in looks(events)[0]["samples"]] == asked


def test_prompts_of_the_recipe_and_room_for_a_reply(tmp_path, monkeypatch):
    events, made = [], []
    real = samples.generate

    def generate(model, prompts, *rest):
        found = real(model, prompts, *rest)
        made.extend((len(prompt), len(reply)) for prompt, reply in zip(prompts, found, strict=True))
        return found

    monkeypatch.setattr(samples, "generate", generate)
    chosen = {"every": "10 steps", "prompts": ["the cat", "long " * 99], "tokens": 99}
    tiny.phase("pretrain", tmp_path, emit=events.append, samples=chosen)
    (look,) = looks(events)
    assert [one["prompt"] for one in look["samples"]] == list(chosen["prompts"])
    assert made[1][0] == 16  # the end of the long one: half of the context is kept for the reply
    assert all(prompt + reply <= 32 for prompt, reply in made)


def test_a_model_that_has_learnt_says_what_it_was_taught(tmp_path):
    """The samples come from the weights in training, not from others."""
    events = []
    asked = tiny.records("sft")[5]["messages"]
    chosen = {"every": "100 steps", "prompts": [asked[0]["content"]], "tokens": 30, "temperature": 0}
    tiny.phase("sft", tmp_path, emit=events.append, steps=200, lr=1e-2, samples=chosen)
    last = looks(events)[-1]["samples"][0]["text"]
    answers = [r["messages"][1]["content"] for r in tiny.records("sft") if r["messages"][0] == asked[0]]
    assert any(answer.startswith(last[:20]) for answer in answers) and len(last) > 20


def test_a_reward_model_says_nothing(tmp_path):
    events = []
    tiny.phase("reward", tmp_path, emit=events.append, samples=OFTEN)
    assert not looks(events)


def test_by_time_it_takes_at_most_a_hundredth(monkeypatch):
    clock, called = [0.0], []
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])

    def sample():
        called.append(clock[0])
        clock[0] += 2.0  # seconds that it takes
        return [{"prompt": "a", "text": "b"}]

    every = SimpleNamespace(unit="s", every=10.0)
    config = SimpleNamespace(samples=SimpleNamespace(every=every))
    run = SimpleNamespace(
        sample=sample, config=config, machine=SimpleNamespace(device="cpu"), emit=lambda event: None
    )
    state = {}
    due = progress.Samples(run, state)
    for step in range(6000):
        clock[0] += 1.0
        due(step)
    assert called[0] == 10.0 and called[1] >= 210.0
    assert 2.0 * len(called) <= 0.0101 * clock[0] + 2.0
    assert len(state["samples"]) <= progress.KEPT
    assert state["samples"][-1]["step"] >= state["samples"][0]["step"]


def test_the_terminal_shows_them_under_the_live_line_and_a_log_as_lines():
    step = {"event": "step", "stage": "base", "step": 4, "steps": 9, "loss": 2.5}
    said = [{"prompt": "the [b]cat", "text": "sat\non the mat " + "x" * 300}]
    event = {"event": "samples", "stage": "base", "step": 4, "samples": said}
    out = io.StringIO()
    with console.Progress(Console(file=out, force_terminal=True, width=200)) as shown:
        shown(step)
        shown(event)
        shown({**step, "step": 5})
    text = out.getvalue()
    assert "the [b]cat" in text and "sat on the mat" in text and "…" in text and "written at step 4" in text
    out = io.StringIO()
    console.Progress(Console(file=out, force_terminal=False, width=400))(event)
    assert "base step 4" in out.getvalue() and "the [b]cat sat on the mat" in out.getvalue()
