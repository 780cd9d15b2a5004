"""What a plan says a recipe costs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trivium import compiling
from trivium.model.config import ModelConfig
from trivium.plan import flops, machine
from trivium.plan.cost import (
    DECODE,
    GENERATION_UTILISATION,
    REPLIES,
    TRAINING_UTILISATION,
    Cost,
    Speed,
    estimate,
)
from trivium.recipe.load import loads
from trivium.recipe.training import PretrainStage

RECIPE = """\
name: tiny
stages:
  corpus: {kind: data, sources: [{kind: python-docs}]}
  talks: {kind: data, format: conversations, sources: [{kind: python-docs}]}
  pairs: {kind: data, format: preferences, sources: [{kind: python-docs}], size: 100}
  vocab: {kind: tokenizer, data: corpus, vocab_size: 500}
  base: {kind: pretrain, data: corpus, tokenizer: vocab, model: {dim: 64, heads: 4, layers: 2, context: 128}, tokens: 1M}
  chat: {kind: sft, init: base, data: talks, epochs: 2}
  aligned: {kind: dpo, init: chat, data: pairs, epochs: 2, context: 64}
  safety:
    kind: evaluate
    model: aligned
    compare: [chat]
    suites: [{kind: refusals, data: talks, items: 10, max_new_tokens: 20}, {kind: response_loss, data: talks, items: 5}]
  small: {kind: quantize, model: aligned}
"""


@pytest.fixture
def costs() -> dict[str, Cost]:
    return {cost.stage: cost for cost in estimate(loads(RECIPE), peak=1e9)}


@pytest.fixture
def config() -> ModelConfig:
    base = loads(RECIPE).stages["base"]
    assert isinstance(base, PretrainStage)
    return ModelConfig.from_shape(base.model, 500)


def test_every_stage_is_there_in_the_order_of_the_recipe(costs: dict[str, Cost]) -> None:
    assert list(costs) == list(loads(RECIPE).stages)
    assert costs["corpus"] == Cost("corpus", "data")


def test_pretraining(costs: dict[str, Cost], config: ModelConfig) -> None:
    base = costs["base"]
    whole_steps = 244 * 32 * 128
    assert (base.parameters, base.tokens) == (flops.parameters(config), whole_steps)
    assert base.flops == whole_steps * flops.training(config, 128)
    assert base.minutes == pytest.approx((base.flops / (1e9 * TRAINING_UTILISATION) + compiling.SECONDS) / 60)


def test_dpo_adds_one_forward_of_the_reference(costs: dict[str, Cost], config: ModelConfig) -> None:
    aligned = costs["aligned"]
    assert aligned.tokens == 2 * 100 * 2 * 64  # epochs x pairs x rows x context
    assert aligned.flops == aligned.tokens * 4 * flops.forward(config, 64)
    assert "at most" in aligned.note


def test_the_plan_counts_steps_as_the_phases_do() -> None:
    """Of 100 items each is in each epoch; replies are made in whole sets, each prompt `group` times."""
    more = """\
  tasks: {kind: data, format: conversations, sources: [{kind: reasoning}], size: 100}
  marks: {kind: reward, init: aligned, data: pairs, epochs: 0.5, context: 64}
  solved: {kind: grpo, init: aligned, data: tasks, reward: reasoning, epochs: 1, group: 4, batch: 16, minibatches: 2, context: 64}
"""
    costs = {cost.stage: cost for cost in estimate(loads(RECIPE + more), peak=1e9)}
    assert costs["marks"].tokens == 50 * 2 * 64
    assert costs["solved"].tokens == 13 * 2 * 16 * 64  # 12.5 sets of two batches


def test_what_only_the_data_can_tell_is_not_guessed(costs: dict[str, Cost]) -> None:
    assert (costs["chat"].tokens, costs["chat"].minutes) == (None, None)
    assert costs["chat"].note == "unknown until talks has run"


def test_evaluation_reads_and_writes_with_every_model(costs: dict[str, Cost], config: ModelConfig) -> None:
    read, written = 2 * (10 + 5) * 128, 2 * 10 * 20
    each = flops.forward(config, 128)
    assert costs["safety"].tokens == read + written
    assert costs["safety"].minutes == pytest.approx(
        (read * each / TRAINING_UTILISATION + written * each / GENERATION_UTILISATION) / 1e9 / 60
    )


def test_without_a_peak_there_are_no_minutes() -> None:
    assert all(cost.minutes is None for cost in estimate(loads(RECIPE)))


def test_a_busy_machine_never_lowers_the_peak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(machine.SIZES, "cpu", (64,))
    monkeypatch.setattr(machine, "SECONDS", 0.01)
    cache = tmp_path / "store" / "machine.json"
    monkeypatch.setattr(machine, "_measured", {})
    told: list[str] = []
    first = machine.measured_peak("float32", "cpu", cache, told.append)
    assert first > 0 and len(told) == 1 and "float32" in told[0]
    assert list(json.loads(cache.read_text()).values()) == [first]
    monkeypatch.setattr(machine, "_benchmark", lambda *_: 1.0)
    assert machine.measured_peak("float32", "cpu", cache, told.append) == first, "once in a process"
    assert len(told) == 1, "nothing is said where nothing is measured"
    machine._measured.clear()
    assert machine.measured_peak("float32", "cpu", cache) == first, "the best that was seen"
    machine._measured.clear()
    cache.write_text("{broken")
    assert machine.measured_peak("float32", "cpu", cache) == 1.0
    machine._measured.clear()


@pytest.mark.parametrize(("bf16", "float32", "counted"), [(9.0, 2.0, 4.0), (3.0, 2.0, 3.0), (1.0, 2.0, 2.0)])
def test_plans_count_no_more_of_bf16_than_a_small_model_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bf16: float, float32: float, counted: float
) -> None:
    rates = {"bf16": bf16, "float32": float32}
    monkeypatch.setattr(machine, "_measured", {})
    monkeypatch.setattr(machine, "_benchmark", lambda precision, _: rates[precision])
    cache = tmp_path / "machine.json"
    assert machine.known_peak(cache) is None
    assert machine.measured_peak("bf16", "cpu", cache) == bf16, "a run's share is of the real peak"
    assert machine.known_peak(cache) == bf16
    assert machine.measured_peak(device="cpu", cache=cache) == counted
    assert machine.known_peak(cache) == counted
    machine._measured.clear()


def test_the_memory_of_each_rank_is_told_with_the_layout() -> None:
    text = RECIPE.replace("tokens: 1M}", "tokens: 1M, parallel: {data: 2, shard: 4}}")
    cost = {cost.stage: cost for cost in estimate(loads(text))}
    alone = {cost.stage: cost for cost in estimate(loads(RECIPE))}
    assert str(cost["base"].parallel) == "data 2 x shard 4"
    assert cost["base"].memory < alone["base"].memory / 4
    assert cost["corpus"].memory is None
    assert cost["chat"].memory == alone["chat"].memory


def minutes(text: str, peak: float = 1e12) -> dict[str, float]:
    return {cost.stage: cost.minutes or 0.0 for cost in estimate(loads(text), peak=peak)}


def test_what_a_step_takes_beside_its_passes_is_counted() -> None:
    """Muon's iterations, the compiler, the policy's replies."""
    plain = minutes(RECIPE)
    compiled = minutes(RECIPE.replace("tokens: 1M}", "tokens: 1M, compile: 'on'}"))
    assert compiled["base"] - plain["base"] == pytest.approx(compiling.SECONDS / 60)
    muon = minutes(RECIPE.replace("tokens: 1M}", "tokens: 1M, optimizer: muon}"))
    base = loads(RECIPE).stages["base"]
    assert isinstance(base, PretrainStage)
    work = 244 * flops.newton_schulz(ModelConfig.from_shape(base.model, 500))
    assert muon["base"] - plain["base"] == pytest.approx(work / (1e12 * TRAINING_UTILISATION) / 60)
    grpo = "  online: {kind: grpo, init: chat, data: talks, reward: reasoning, steps: 10, batch: 64, max_new_tokens: 50}\n"
    once, twice = (minutes(RECIPE + grpo.replace("50}", f"{tokens}}}"))["online"] for tokens in (50, 100))
    assert twice - once == pytest.approx(10 * 50 * 64 / REPLIES * 2 * DECODE / 60, rel=0.3)


def test_a_rehearsal_on_its_own_rows_counts_records_rows_and_steps() -> None:
    speed = Speed(step=0.5, start=30.0, record=0.01, items=0.25, tokens=100.0)
    found = estimate(loads(RECIPE), 1e9, {}, {"chat": speed}, {"talks": (4000, 1000)})
    chat = next(cost for cost in found if cost.stage == "chat")
    shown = 2 * 4000 * 0.25  # two epochs of what the records make
    steps = -(-shown // 32)
    assert chat.tokens == shown * 100
    assert chat.minutes == pytest.approx((steps * 0.5 + 30 + 5000 * 0.01) / 60)
