"""A recipe on a cluster: every stage, bands with their doubts, and what the command line says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trivium.cli import main
from trivium.errors import RecipeError
from trivium.model.config import ModelConfig
from trivium.plan import flops, search
from trivium.plan.cost import estimate, model_of
from trivium.plan.hardware import cluster
from trivium.plan.layout import lay_out
from trivium.plan.project import Phase, project
from trivium.recipe.lines import Lines
from trivium.recipe.load import loads
from trivium.recipe.look import Look
from trivium.recipe.network import Adapter
from trivium.recipe.training import SftStage

RECIPE = """\
name: seven
stages:
  corpus: {kind: data, sources: [{kind: jsonl, path: not-here.jsonl}]}
  talks: {kind: data, format: conversations, sources: [{kind: jsonl, path: not-here.jsonl}], size: 100K}
  pairs: {kind: data, format: preferences, sources: [{kind: jsonl, path: not-here.jsonl}], size: 100K}
  vocab: {kind: tokenizer, data: corpus, vocab_size: 32K}
  base:
    kind: pretrain
    data: corpus
    tokenizer: vocab
    model: {dim: 4096, heads: 32, layers: 32, hidden: 11008, context: 4096, tie_embeddings: false}
    tokens: 100B
    batch: 1024
  chat: {kind: sft, init: base, data: talks, epochs: 2, batch: 128}
  aligned: {kind: dpo, init: chat, data: pairs, epochs: 1, batch: 64}
  safety: {kind: evaluate, model: aligned, suites: [{kind: redteam, items: 10}]}
"""


def phases(text: str = RECIPE, on: str = "64xH100") -> dict[str, Phase]:
    return {phase.stage: phase for phase in project(loads(text), cluster(on)).phases}


def test_every_stage_is_there_and_the_total_is_their_sum() -> None:
    found = project(loads(RECIPE), cluster("64xH100"))
    assert [phase.stage for phase in found.phases] == list(loads(RECIPE).stages)
    assert found.hours.expected == pytest.approx(sum(phase.hours.expected for phase in found.phases))
    for phase in found.phases:
        assert phase.hours.low <= phase.hours.expected <= phase.hours.high
    assert found.dollars is not None and found.dollars.low < found.dollars.expected < found.dollars.high
    base = found.phases[4]
    hourly = cluster("64xH100").accelerator.price
    assert base.dollars is not None and hourly is not None
    assert base.dollars.expected == pytest.approx(base.hours.expected * 64 * hourly.expected)


def test_the_time_is_the_roofline_over_what_is_lost() -> None:
    base = phases()["base"]
    lost = 1.0
    for doubt in base.doubts:
        lost *= doubt.band.expected
    assert base.hours.expected == pytest.approx(sum(base.seconds.values()) / 3600 / lost)
    assert base.cost is not None and base.cost.flops is not None
    whole = base.cost.flops / (64 * 989e12 * base.hours.expected * 3600)
    assert 0.15 < whole < 0.5  # what runs of this size were published with


def test_alignment_pays_for_its_reference_and_twice_the_rows() -> None:
    found = phases()
    layout = found["aligned"].found
    assert layout is not None
    assert found["aligned"].cost is not None and found["aligned"].cost.tokens == pytest.approx(
        100_000 * 2 * 4096, rel=0.01
    )


def test_redteam_asks_three_sets_of_items_and_four_with_best_of_n() -> None:
    def cost(text: str) -> float:
        return estimate(loads(text))[-1].tokens or 0

    once = cost(RECIPE)
    config = model_of(Look(loads(RECIPE), Lines()), "aligned")
    assert config is not None
    assert once == 30 * config.context + 30 * 96
    again = RECIPE.replace("kind: redteam, items: 10", "kind: redteam, items: 10, queries: 5")
    assert cost(again) == pytest.approx(once * 4 / 3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (("batch: 1024", "batch: 4M"), "`batch` counts rows: 4,000,000 tokens a step are `batch: 977`"),
        (("batch: 1024", "batch: 1024, parallel: {shard: 128}"), "128 ranks, and the cluster 64 devices"),
        (("batch: 1024", "batch: 1024, parallel: {data: 4}"), "does not fit"),
    ],
)
def test_what_cannot_be_is_told(changes: tuple[str, str], said: str) -> None:
    text = RECIPE.replace("    batch: 1024\n", "").replace("tokens: 100B", "tokens: 100B")
    lines = changes[1].replace(", ", "\n    ")
    with pytest.raises(RecipeError) as error:
        phases(
            text.replace("    tokens: 100B\n", f"    tokens: 100B\n    {lines}\n").replace("4M", "4000000")
        )
    assert said in str(error.value) and "base" in str(error.value)


def test_the_layout_of_the_recipe_is_kept() -> None:
    text = RECIPE.replace("    batch: 1024\n", "    batch: 1024\n    parallel: {shard: 8, tensor: 4}\n")
    found = phases(text)["base"].found
    assert found is not None and found.winner.shape.parallel.tensor == 4 and found.cluster.count == 32


def test_the_command_line_says_it_in_tables_and_as_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    Path("seven.yaml").write_text(RECIPE)

    def trivium(*arguments: str) -> int:
        with pytest.raises(SystemExit) as stop:
            main(["plan", "seven.yaml", *arguments])
        return int(str(stop.value.code))

    assert trivium("--on", "64xH100") == 0
    out = capsys.readouterr().out
    assert "base fits: " in out and "GiB on each device, by cause" in out and "practice" in out
    for width in (80, 120, 150, 200):  # a figure stands in a line, and so does its band
        monkeypatch.setenv("COLUMNS", str(width))
        assert trivium("--on", "64xH100") == 0
        rows = [line for line in capsys.readouterr().out.splitlines() if line[:1] in "┃│"]
        assert all(row.count("(") == row.count(")") and len(row) <= width for row in rows)
    assert trivium("--on", "64xH100", "--json") == 0
    plain = json.loads(capsys.readouterr().out)
    base = plain["stages"]["base"]
    config = model_of(Look(loads(RECIPE), Lines()), "base")
    assert config is not None and base["parameters"] == flops.parameters(config)
    assert base["hours"]["low"] < base["hours"]["expected"] < base["hours"]["high"]
    assert set(base["memory_bytes"]) >= {"weights", "gradients", "optimizer", "activations", "buffers"}
    assert trivium("--on", "1xH100") == 2
    assert "smallest cluster" in capsys.readouterr().err
    assert trivium("--on", "8xH1000") == 2
    assert "nearest" in capsys.readouterr().err


def test_adapters_take_less_of_everything_than_training_all() -> None:
    """LoRA's frozen half: no gradients and moments of it, no products for its gradients; int8 keeps it in a byte a weight."""
    plain = "chat: {kind: sft, init: base, data: talks, epochs: 2, batch: 128}"

    def laid_out(adapter: str, on: str) -> tuple[search.Layout, ModelConfig]:
        look = Look(loads(RECIPE.replace(plain, f"{plain[:-1]}{adapter}}}")), Lines())
        stage, config = look.get("chat", SftStage), model_of(look, "chat")
        assert stage is not None and config is not None
        return lay_out(look, stage, config, 4096, cluster(on)).winner, config

    with pytest.raises(
        RecipeError, match="fits in no layout"
    ):  # 7 B in float32 with gradients and moments: 100 GiB
        laid_out("", "1xH100")
    low, config = laid_out(", adapter: {rank: 16}", "1xH100")
    trained, inside = flops.adapted(config, Adapter(rank=16))
    assert (low.memory.gradients, low.memory.optimizer) == (4 * trained, 8 * trained)
    assert low.memory.weights == 4 * (flops.parameters(config) + trained)
    eight, _ = laid_out(", adapter: {rank: 16, quantize: int8}", "1xH100")
    assert low.memory.weights - eight.memory.weights == 3 * inside
    whole, _ = laid_out("", "8xH100")
    part, _ = laid_out(", adapter: {rank: 16}", "8xH100")
    assert 0.65 < part.step.work / whole.step.work < 0.75
    assert part.step.seconds < 0.85 * whole.step.seconds
    cost = next(
        one
        for one in estimate(loads(RECIPE.replace(plain, plain[:-1] + ", adapter: {rank: 16}}")))
        if one.stage == "chat"
    )
    assert cost.tokens is not None and cost.flops == cost.tokens * flops.adapting(config, 4096)
