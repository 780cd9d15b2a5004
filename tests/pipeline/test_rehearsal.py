"""A few real steps tell the minutes of a stage, and are kept by what decides the speed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivium.cli import main
from trivium.pipeline import rehearsal
from trivium.plan.cost import Speed, estimate
from trivium.plan.rates import even
from trivium.recipe.load import load, loads

RECIPE = """\
name: tiny
stages:
  corpus: {kind: data, sources: [{kind: python-docs}]}
  talks: {kind: data, format: conversations, sources: [{kind: python-docs}]}
  pairs: {kind: data, format: preferences, sources: [{kind: python-docs}], size: 100}
  vocab: {kind: tokenizer, data: corpus, vocab_size: 300}
  base: {kind: pretrain, data: corpus, tokenizer: vocab, model: {dim: 32, heads: 2, layers: 1, context: 32}, tokens: 1M, batch: 4,
    micro_batch: 2, compile: "off"}
  aligned: {kind: dpo, init: base, allow_base: true, data: pairs, steps: 50, batch: 4, compile: "off"}
  laid_out: {kind: sft, init: base, data: talks, steps: 5, batch: 4, parallel: {data: 2}}
"""


def test_what_is_rehearsed_is_known_afterwards_and_stands_in_the_plan(tmp_path: Path) -> None:
    recipe, path, told = loads(RECIPE), tmp_path / "speeds.json", list[str]()
    assert rehearsal.known(recipe, path) == {}
    found = rehearsal.rehearse(recipe, {}, 1e9, path, told.append)
    assert set(found) == {"base", "aligned"}, "ranks are not rehearsed in one process"
    assert all(speed.step > 0 and speed.start >= 0 for speed in found.values())
    assert rehearsal.known(recipe, path) == found and len(told) == 2
    slower = loads(RECIPE.replace("batch: 4,\n", "batch: 8,\n", 1))
    assert "base" not in rehearsal.known(slower, path) and "aligned" in rehearsal.known(slower, path)
    costs = {cost.stage: cost for cost in estimate(recipe, even(1e9), speeds=found)}
    steps = 1_000_000 // (4 * 32)
    assert costs["base"].minutes == pytest.approx((steps * found["base"].step + found["base"].start) / 60)
    assert "rehearsed" in costs["base"].note


@given(
    st.integers(0, 900),
    st.integers(1, 1000),
    st.integers(0, 10**6),
    st.integers(1, 10**7),
    st.integers(1, 64),
)
def test_what_others_took_of_a_virtual_machine_is_put_right(
    waited: int, worked: int, waited_before: int, worked_before: int, threads: int
) -> None:
    before, after = (waited_before, worked_before), (waited_before + waited, worked_before + worked)
    factor = rehearsal.as_usual(before, after, threads)
    more = waited / (waited + worked) > waited_before / (waited_before + worked_before)
    assert (factor < 1) == more or factor == pytest.approx(1)
    assert rehearsal.as_usual((0, 0), (0, 0), threads) == 1


def test_a_damaged_file_is_as_if_there_were_none(tmp_path: Path) -> None:
    path = tmp_path / "speeds.json"
    for text in ("{broken", "[]", '{"a": 1}', "\x00"):
        path.write_text(text)
        assert rehearsal.known(loads(RECIPE), path) == {}


def test_a_rehearsal_counts_for_its_own_stage_only() -> None:
    plain, told = (
        {cost.stage: cost for cost in estimate(loads(RECIPE), even(1e9), speeds=speeds)}
        for speeds in (None, {"base": Speed(2.0, 30.0)})
    )
    assert told["aligned"] == plain["aligned"]
    assert told["base"].minutes != plain["base"].minutes
    assert plain["pairs"].minutes is not None and "rates" in plain["pairs"].note


@pytest.mark.slow
def test_a_stage_is_rehearsed_on_its_own_rows_and_its_length_is_that_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data and tokenizer are made first and kept; what the rehearsal takes for an epoch is what the run does."""
    monkeypatch.setattr(rehearsal, "MOST", 8)
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(Path(__file__).parent.parent / "recipes" / "tiny.yaml", "tiny.yaml")
    texts = [f"Day {n}: the {['cat', 'dog'][n % 2]} saw {n * 7 % 90} stones." for n in range(400)]
    Path("documents.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    short = ["base.compile=off", "sft.compile=off", "sft.steps=null", "sft.epochs=2", "base.micro_batch=2"]
    overrides = [part for one in short for part in ("-o", one)]
    with pytest.raises(SystemExit, match="0"):
        main(["plan", "tiny.yaml", "--calibrate", *overrides])
    recipe = load(Path("tiny.yaml"), short)
    speeds = rehearsal.known(recipe, Path(".trivium/speeds.json"))
    assert set(speeds) == {"base", "sft", "aligned"}
    assert all(speed.items and speed.tokens and speed.record > 0 for speed in speeds.values())
    with pytest.raises(SystemExit, match="0"):
        main(["run", "tiny.yaml", "--only", "aligned", *overrides])
    account = json.loads(Path("runs/tiny/dialogues/artifact.json").read_text())["metrics"]
    events = [json.loads(line) for line in Path("runs/tiny/events.jsonl").read_text().splitlines()]
    cached = {event["stage"] for event in events if event["event"] == "cached"}
    assert {"corpus", "dialogues", "pairs", "vocab"} <= cached
    records = {"dialogues": (account["train_items"], account["heldout_items"])}
    planned = next(c for c in estimate(recipe, even(1e9), {}, speeds, records) if c.stage == "sft")
    ran = json.loads(Path("runs/tiny/sft/artifact.json").read_text())["metrics"]
    assert planned.tokens == pytest.approx(ran["tokens"], rel=0.02)
    assert "own rows" in planned.note


def test_data_that_is_far_away_or_large_is_not_made_for_a_rehearsal() -> None:
    minutes = {"corpus": 0.1, "talks": 0.1, "pairs": 0.1}
    assert rehearsal.wanted(loads(RECIPE), minutes, {}) == ["corpus", "talks", "pairs", "vocab"]
    assert rehearsal.wanted(loads(RECIPE), {**minutes, "talks": 60.0}, {}) == []
    assert rehearsal.wanted(loads(RECIPE), {"pairs": 0.1}, {}) == []
    far = RECIPE.replace("{kind: python-docs}", "{kind: huggingface, name: some/where}", 1)
    assert rehearsal.wanted(loads(far), minutes, {}) == []
