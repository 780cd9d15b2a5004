"""A finished stage that is trained on begins where it ended; what that is worth is told, and stands in the artifact."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from trivium import run
from trivium.recipe.load import loads

RECIPE = """\
name: longer
seed: 3
stages:
  corpus: {kind: data, sources: [{kind: text, path: texts.jsonl}]}
  vocab: {kind: tokenizer, data: corpus, vocab_size: 300}
  base:
    kind: pretrain
    data: corpus
    tokenizer: vocab
    model: {dim: 32, layers: 1, heads: 2, context: 32}
    batch: 4
    steps: 6
    lr: 1e-2
    schedule: constant
    warmup: 0
    precision: float32
    device: cpu
    compile: "off"
    samples: null
    log_every: 1
"""


@pytest.fixture
def train(tmp_path):
    words = ["the cat sees a red ball", "my friend reads an old book", "a dog walks down the long street"]
    rows = [{"text": f"{i}: {words[i % 3]}, says number {i * 7919 % 1000}. " * 3} for i in range(60)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def go(where: str, *overrides: str):
        torch.set_num_threads(1)
        events = []
        made = run(
            loads(RECIPE, overrides), store=tmp_path / where / "store", runs=tmp_path / where / "runs", emit=events.append,
            recipe_folder=tmp_path, only=["base"],
        )  # fmt: skip
        return made["base"], events

    return go


def weights(artifact):
    return load_file(artifact.path / "model.safetensors")


def same(ours, theirs) -> bool:
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


def warnings(events) -> list[str]:
    return [
        event["message"]
        for event in events
        if event["event"] == "warning" and "not the same" in event["message"]
    ]


def test_a_constant_rate_goes_on_as_if_it_had_never_stopped(train):
    short, _ = train("some")
    longer, events = train("some", "base.steps=10")
    assert [e["step"] for e in events if e["event"] == "resume"] == [6]
    assert longer.metrics["went_on"] == {"from": short.fingerprint, "step": 6, "exact": True}
    whole, _ = train("whole", "base.steps=10")
    assert "went_on" not in whole.metrics and longer.fingerprint == whole.fingerprint
    assert same(weights(longer), weights(whole)) and not same(weights(longer), weights(short))
    assert longer.metrics["curve"] == whole.metrics["curve"] and not warnings(events)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("base.schedule=cosine", "`schedule: cosine` ended at step 6"),
        ("base.warmup=0.5", "`warmup` is a share"),
    ],
)
def test_a_schedule_that_depends_on_the_length_is_told(train, change, said):
    short, _ = train("some", change)
    longer, events = train("some", change, "base.steps=10")
    [told] = warnings(events)
    assert said in told
    assert longer.metrics["went_on"] == {"from": short.fingerprint, "step": 6, "exact": False}
    assert [e["step"] for e in events if e["event"] == "resume"] == [6] and longer.metrics["steps"] == 10


def test_what_differs_in_more_or_is_shorter_is_trained_anew(train):
    train("some")
    for overrides in (("base.steps=10", "base.lr=2e-2"), ("base.steps=4",)):
        made, events = train("some", *overrides)
        assert "went_on" not in made.metrics and not [e for e in events if e["event"] == "resume"]


def test_a_stage_that_keeps_nothing_is_trained_anew(train, tmp_path):
    train("some", "base.keep_optimizer=false")
    assert not list((tmp_path / "some" / "store").glob("last_state/*"))
    made, _ = train("some", "base.steps=10")
    assert "went_on" not in made.metrics
