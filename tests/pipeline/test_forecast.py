"""What runs took corrects what the next plan says: once for each artifact, and for no other kind of stage."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivium.errors import DataError
from trivium.pipeline.contract import Artifact
from trivium.pipeline.forecast import LEARNED, compared, forecast, learn, read_lessons
from trivium.plan.cost import estimate
from trivium.plan.rates import even
from trivium.recipe.load import loads
from trivium.report.table import planned_lines

RECIPE = loads("""\
name: tiny
stages:
  corpus: {kind: data, sources: [{kind: python-docs}]}
  talks: {kind: data, format: conversations, sources: [{kind: python-docs}], size: 5000}
  vocab: {kind: tokenizer, data: corpus, vocab_size: 300}
  base: {kind: pretrain, data: corpus, tokenizer: vocab, model: {dim: 32, heads: 2, layers: 1, context: 32}, tokens: 10M,
    batch: 4}
  chat: {kind: sft, init: base, data: talks, epochs: 1, batch: 4}
""")
RATES = even(1e9)
PLANNED = {cost.stage: cost.minutes for cost in estimate(RECIPE, RATES) if cost.minutes}


def ran(stage: str, factor: float, fingerprint: str) -> dict[str, Artifact]:
    seconds = PLANNED[stage] * 60 * factor
    return {stage: Artifact(Path(), {"fingerprint": fingerprint, "metrics": {}, "seconds": seconds})}


def minutes(store: Path) -> dict[str, float]:
    return {cost.stage: cost.minutes for cost in forecast(RECIPE, store, {}, RATES) if cost.minutes}


def test_a_lesson_corrects_its_kind_alone_and_counts_once(tmp_path: Path) -> None:
    assert minutes(tmp_path) == PLANNED
    for _ in range(3):
        (lesson,) = learn(RECIPE, tmp_path, ran("base", 2.0, "a"), RATES)
        assert lesson.stage == "base" and lesson.ratio == pytest.approx(2.0)
    assert minutes(tmp_path)["base"] == pytest.approx(2 * PLANNED["base"])
    assert minutes(tmp_path)["chat"] == PLANNED["chat"]
    note = next(cost.note for cost in forecast(RECIPE, tmp_path, {}, RATES) if cost.stage == "base")
    assert "1 earlier run here" in note


def test_what_was_learned_is_measured_against_the_plan_without_it(tmp_path: Path) -> None:
    learn(RECIPE, tmp_path, ran("base", 2.0, "a"), RATES)
    (lesson,) = learn(RECIPE, tmp_path, ran("base", 3.0, "b"), RATES)
    assert lesson.planned == pytest.approx(PLANNED["base"])
    assert minutes(tmp_path)["base"] == pytest.approx(2.5 * PLANNED["base"])
    (both,) = compared(RECIPE, tmp_path, ran("base", 2.5, "c"), RATES)
    assert both.ratio == pytest.approx(1.0)
    lines = planned_lines({"planned": {both.stage: {"planned": both.planned, "took": both.took}}})
    assert lines[0][0] == "base" and lines[0][3] == "1.00"
    assert planned_lines({}) == []


def test_nothing_is_learned_from_nothing(tmp_path: Path) -> None:
    for made in ({}, ran("chat", 1e-6, "a")):
        if made and PLANNED["chat"] >= 0.1:
            continue
        with pytest.raises(DataError, match="no stage of tiny has run here"):
            learn(RECIPE, tmp_path, made, RATES)
    assert not (tmp_path / LEARNED).exists()


@given(
    st.one_of(
        st.binary(max_size=60),
        st.sampled_from([b"[]", b'{"a": 1}', b'{"a": {"b": "c", "d": -1}}', b'{"a": {"b": NaN}}']),
    )
)
def test_a_damaged_file_teaches_nothing(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("store") / LEARNED
    path.write_bytes(content)
    assert all(ratio > 0 for ratios in read_lessons(path).values() for ratio in ratios.values())
