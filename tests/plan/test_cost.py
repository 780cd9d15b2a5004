"""What a plan says a recipe costs."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivium import compiling
from trivium.model.config import ModelConfig
from trivium.plan import flops, machine
from trivium.plan.cost import (
    CHARACTERS_PER_TOKEN,
    DECODE,
    GENERATION_UTILISATION,
    REPLIES,
    Cost,
    Speed,
    estimate,
)
from trivium.plan.rates import FUSED, Rates, even, moved
from trivium.recipe.load import loads
from trivium.recipe.sources import Primer, Refusals
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
    return {cost.stage: cost for cost in estimate(loads(RECIPE), rates=even(1e9))}


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
    assert base.minutes == pytest.approx((base.flops / 1e9 + compiling.SECONDS) / 60)


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
    costs = {cost.stage: cost for cost in estimate(loads(RECIPE + more), rates=even(1e9))}
    assert costs["marks"].tokens == 50 * 2 * 64
    assert costs["solved"].tokens == 13 * 2 * 16 * 64  # 12.5 sets of two batches


def test_what_only_the_data_can_tell_is_not_guessed(costs: dict[str, Cost]) -> None:
    assert (costs["chat"].tokens, costs["chat"].minutes) == (None, None)
    assert costs["chat"].note == "unknown until talks has run"


def test_items_of_made_up_sources_have_their_usual_length() -> None:
    mixed = "sources: [{kind: primer, weight: 3}, {kind: refusals, weight: 1}], size: 100}"
    recipe = RECIPE.replace(
        "format: conversations, sources: [{kind: python-docs}]}", f"format: conversations, {mixed}"
    )
    cost = next(one for one in estimate(loads(recipe)) if one.stage == "chat")
    mean = (3 * Primer.characters["conversations"] + Refusals.characters["conversations"]) / 4
    assert cost.tokens == 2 * -(-100 * mean // (CHARACTERS_PER_TOKEN * 128)) * 128
    known = next(one for one in estimate(loads(recipe), characters={"talks": 10_000}) if one.stage == "chat")
    assert known.tokens == 2 * -(-10_000 // (CHARACTERS_PER_TOKEN * 128)) * 128, (
        "what has run is known better"
    )


def test_evaluation_reads_and_writes_with_every_model(costs: dict[str, Cost], config: ModelConfig) -> None:
    read, written = 2 * (10 + 5) * 128, 2 * 10 * 20
    each = flops.forward(config, 128)
    assert costs["safety"].tokens == read + written
    assert costs["safety"].minutes == pytest.approx(
        (read * each + written * each / GENERATION_UTILISATION) / 1e9 / 60
    )


def test_without_rates_there_are_no_minutes() -> None:
    assert all(cost.minutes is None for cost in estimate(loads(RECIPE)))


def test_a_busy_machine_never_lowers_the_rates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(machine.WIDTHS, "cpu", (16, 64))
    monkeypatch.setitem(machine.PASS, "cpu", (2, 16, 32))
    monkeypatch.setattr(machine, "SECONDS", 0.01)
    monkeypatch.setattr(machine, "_measured", {})
    cache, told = tmp_path / "store" / "machine.json", list[str]()
    assert machine.known_rates(cache) is None
    first = machine.rates("float32", "cpu", cache, told.append)
    assert len(told) == 1 and "float32" in told[0]
    assert set(first.products) == {16, 64} and first.numbers > 0
    assert machine.known_rates(cache) == first
    monkeypatch.setattr(machine, "_benchmark", lambda *_: Rates({16: 1.0, 64: 1e99}, 1.0))
    assert machine.rates("float32", "cpu", cache, told.append) == first, "once in a process"
    assert len(told) == 1, "nothing is said where nothing is measured"
    machine._measured.clear()
    best = Rates({16: first.products[16], 64: 1e99}, first.numbers)
    assert machine.rates("float32", "cpu", cache) == best, "the best that was seen"
    machine._measured.clear()
    for broken in (
        "{broken",
        "[]",
        '{"a": 1}',
        '{"a": {"products": {}, "numbers": 1}}',
        '{"a": {"products": {"x": 1}}}',
    ):
        cache.write_text(broken)
        assert machine.known_rates(cache) is None
    assert machine.rates("float32", "cpu", cache).products[64] == 1e99


@given(st.floats(1, 1e4))
def test_products_are_as_fast_as_the_widths_around_theirs(width: float) -> None:
    rates = Rates({32: 1.0, 128: 3.0, 2048: 4.0}, 1.0)
    assert 1.0 <= rates.product(width) <= rates.product(width * 2) <= 4.0
    assert rates.product(64) == pytest.approx(2.0) and rates.peak == 4.0


def test_what_is_no_product_counts_and_the_compiler_takes_some_of_it(config: ModelConfig) -> None:
    slow, fast = (Rates({64: 1e9}, numbers) for numbers in (1e8, math.inf))
    assert fast.seconds(config, 128, 3) == pytest.approx(flops.training(config, 128) / 1e9)
    beside = slow.seconds(config, 128, 3) - fast.seconds(config, 128, 3)
    assert beside == pytest.approx(3 * moved(config, 128) / 1e8)
    fused = slow.seconds(config, 128, 3, fused=True) - fast.seconds(config, 128, 3)
    assert fused == pytest.approx(FUSED * beside)
    frozen = fast.seconds(config, 128, 3, frozen=True)
    assert frozen == pytest.approx(flops.adapting(config, 128) / 1e9)


def test_the_memory_of_each_rank_is_told_with_the_layout() -> None:
    text = RECIPE.replace("tokens: 1M}", "tokens: 1M, parallel: {data: 2, shard: 4}}")
    cost = {cost.stage: cost for cost in estimate(loads(text))}
    alone = {cost.stage: cost for cost in estimate(loads(RECIPE))}
    assert str(cost["base"].parallel) == "data 2 x shard 4"
    assert cost["base"].memory < alone["base"].memory / 4
    assert cost["corpus"].memory is None
    assert cost["chat"].memory == alone["chat"].memory


def minutes(text: str) -> dict[str, float]:
    return {cost.stage: cost.minutes or 0.0 for cost in estimate(loads(text), even(1e12))}


def test_what_a_step_takes_beside_its_passes_is_counted() -> None:
    """Muon's iterations, the compiler, the policy's replies."""
    plain = minutes(RECIPE)
    compiled = minutes(RECIPE.replace("tokens: 1M}", "tokens: 1M, compile: 'on'}"))
    assert compiled["base"] - plain["base"] == pytest.approx(compiling.SECONDS / 60)
    muon = minutes(RECIPE.replace("tokens: 1M}", "tokens: 1M, optimizer: muon}"))
    base = loads(RECIPE).stages["base"]
    assert isinstance(base, PretrainStage)
    work = 244 * flops.newton_schulz(ModelConfig.from_shape(base.model, 500))
    assert muon["base"] - plain["base"] == pytest.approx(work / 1e12 / 60)
    grpo = "  online: {kind: grpo, init: chat, data: talks, reward: reasoning, steps: 10, batch: 64, max_new_tokens: 50}\n"
    once, twice = (minutes(RECIPE + grpo.replace("50}", f"{tokens}}}"))["online"] for tokens in (50, 100))
    assert twice - once == pytest.approx(10 * 50 * 64 / REPLIES * 2 * DECODE / 60, rel=0.3)


def test_pairs_that_fill_little_of_their_rows_are_not_compiled() -> None:
    """Compiled code computes whole rows: of pairs of 100 characters, in rows of 64 tokens, three times what the model does."""
    slow = even(1e7)

    def planned(characters: int) -> Cost:
        found = estimate(loads(RECIPE), slow, {"pairs": characters}, records={"pairs": (100, 10)})
        return next(cost for cost in found if cost.stage == "aligned")

    assert not planned(10_000).compiled and planned(100_000).compiled
    assert planned(10_000).minutes == pytest.approx((planned(10_000).flops or 0) / 1e7 / 60)


def test_a_rehearsal_on_its_own_rows_counts_records_rows_and_steps() -> None:
    speed = Speed(step=0.5, start=30.0, record=0.01, items=0.25, tokens=100.0)
    found = estimate(loads(RECIPE), even(1e9), {}, {"chat": speed}, {"talks": (4000, 1000)})
    chat = next(cost for cost in found if cost.stage == "chat")
    shown = 2 * 4000 * 0.25  # two epochs of what the records make
    steps = -(-shown // 32)
    assert chat.tokens == shown * 100
    assert chat.minutes == pytest.approx((steps * 0.5 + 30 + 5000 * 0.01) / 60)
