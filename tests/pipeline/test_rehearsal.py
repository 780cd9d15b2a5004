"""A few real steps tell the minutes of a stage, and are kept by what decides the speed."""

from __future__ import annotations

from pathlib import Path

import pytest

from trivium.pipeline import rehearsal
from trivium.plan.cost import Speed, estimate
from trivium.recipe.load import loads

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
    costs = {cost.stage: cost for cost in estimate(recipe, 1e9, speeds=found)}
    steps = 1_000_000 // (4 * 32)
    assert costs["base"].minutes == pytest.approx((steps * found["base"].step + found["base"].start) / 60)
    assert "rehearsed" in costs["base"].note


def test_a_damaged_file_is_as_if_there_were_none(tmp_path: Path) -> None:
    path = tmp_path / "speeds.json"
    for text in ("{broken", "[]", '{"a": 1}', "\x00"):
        path.write_text(text)
        assert rehearsal.known(loads(RECIPE), path) == {}


def test_a_rehearsal_counts_for_its_own_stage_only() -> None:
    plain, told = (
        {cost.stage: cost for cost in estimate(loads(RECIPE), 1e9, speeds=speeds)}
        for speeds in (None, {"base": Speed(2.0, 30.0)})
    )
    assert told["aligned"] == plain["aligned"]
    assert told["base"].minutes != plain["base"].minutes
    assert plain["pairs"].minutes is not None and "rates" in plain["pairs"].note
