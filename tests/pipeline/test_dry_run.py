"""A step on ranks that are not there holds and sends what the plan says, and what a real step holds."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from torch._subclasses import FakeTensorMode

from trivium.errors import RecipeError
from trivium.pipeline.dry_run import DryRun, dry_run, dry_runs, possible
from trivium.recipe.lines import Lines
from trivium.recipe.load import load, loads
from trivium.recipe.look import Look
from trivium.recipe.parallel import Parallel
from trivium.recipe.training import TrainingStage
from trivium.train.counted import Counts
from trivium.train.distributed import AXES

RECIPE = """
name: tiny
stages:
  corpus: {{kind: data, sources: [{{kind: python-docs}}]}}
  vocab: {{kind: tokenizer, data: corpus, vocab_size: 4096}}
  base:
    kind: pretrain
    data: corpus
    tokenizer: vocab
    model: {{dim: 128, layers: 3, heads: 4, kv_heads: 2, hidden: 384, context: 256 {model}}}
    tokens: 3M
    batch: 16
    micro_batch: 2
    precision: {precision}
    recompute: {recompute}
"""
SCALE = Path(__file__).resolve().parents[2] / "recipes" / "scale"


def look(precision: str = "float32", recompute: str = "none", model: str = "") -> Look:
    return Look(loads(RECIPE.format(precision=precision, recompute=recompute, model=model)), Lines())


def tried(recipe: Look, parallel: Parallel) -> DryRun:
    stage = recipe.recipe.stages["base"]
    assert isinstance(stage, TrainingStage)
    return dry_run(recipe, "base", stage.model_copy(update={"parallel": parallel}))


EXPERTS = ", moe: {experts: 8, top_k: 2, hidden: 64}"
CASES = {
    "copies": (look(), Parallel(data=4)),
    "shards": (look("bf16", "blocks", ", tie_embeddings: false"), Parallel(shard=4)),
    "hybrid": (look(), Parallel(data=2, shard=4)),
    "tensor": (look(), Parallel(tensor=2)),
    "context": (look(), Parallel(context=2)),
    "experts": (look(model=EXPERTS), Parallel(data=4, expert=4)),
}


@pytest.mark.parametrize(
    "case", ["copies", "shards", *(pytest.param(c, marks=pytest.mark.slow) for c in list(CASES)[2:])]
)
def test_a_rank_holds_and_sends_what_is_planned(case: str) -> None:
    recipe, parallel = CASES[case]
    found = tried(recipe, parallel)
    assert found.passes == 16 // (2 * parallel.data * parallel.shard)
    held = {line.what: line for line in found.held}
    for what in ("weights", "gradients", "optimizer"):
        assert held[what].planned == pytest.approx(held[what].counted, rel=0.005), what
    # a model that is mostly vocabulary, in shards: the gradient of the output layer comes when the logits have gone
    near = 0.2 if case == "shards" else 0.1
    assert held["peak"].planned == pytest.approx(held["peak"].counted, rel=near)
    assert found.sent
    for line in found.sent:
        assert line.planned == pytest.approx(line.counted, rel=0.02), line.what
        assert line.count


def test_what_divides_nothing_and_what_cannot_be_run_is_told() -> None:
    with pytest.raises(RecipeError, match="a batch of 16 rows cannot be shared"):
        tried(look(), Parallel(data=3))
    with pytest.raises(RecipeError, match="does not divide the model's 2 key/value heads"):
        tried(look(), Parallel(tensor=4))
    assert possible(look(), "corpus") == "no training"
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize("fake", [False, True])
def test_bytes_are_counted_until_they_are_freed(fake: bool) -> None:
    counts = Counts(dict.fromkeys(AXES, 1))

    def run() -> None:
        with counts.running():
            one = torch.zeros(1000)
            two = one + 1
            assert counts.held == 8000
            one.view(10, 100).t()  # a view holds nothing of its own
            assert counts.held == 8000
            two.untyped_storage().resize_(0)
            assert counts.held == 4000 and counts.peak == 8000

    if fake:
        with FakeTensorMode():
            run()
    else:
        run()
    gc.collect()
    assert counts.held == 0
    assert torch.UntypedStorage.resize_.__name__ == "resize_"


@pytest.mark.slow
@pytest.mark.parametrize("model", ["", EXPERTS])
def test_a_few_blocks_say_what_all_do(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = look("bf16", "blocks", model.replace("layers: 3", "") + ", tie_embeddings: false")
    base = deep.recipe.stages["base"]
    shape = base.model.model_copy(update={"layers": 7})  # type: ignore[union-attr]
    deep.recipe.stages["base"] = base.model_copy(update={"model": shape})
    few = tried(deep, Parallel(data=2, shard=2))
    monkeypatch.setattr("trivium.pipeline.dry_run.FEW", (3, 7))
    whole = tried(deep, Parallel(data=2, shard=2))
    assert few.blocks and not whole.blocks
    assert (few.held, few.sent) == (whole.held, whole.sent)


@pytest.mark.slow
def test_side_by_side_they_count_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """In two processes, whatever this machine has; an error of one is the caller's."""
    small = look("bf16", "blocks", "")
    stage = small.recipe.stages["base"]
    assert isinstance(stage, TrainingStage)
    stages = {
        name: stage.model_copy(update={"parallel": Parallel(data=data)})
        for name, data in (("base", 2), ("sft", 1))
    }
    small.recipe.stages["sft"] = small.recipe.stages["base"]
    monkeypatch.setattr("trivium.pipeline.dry_run.cores", lambda: 2)
    beside = dry_runs(small, stages)
    assert beside == [dry_run(small, name, stage) for name, stage in stages.items()]
    wrong = stages | {"sft": stage.model_copy(update={"parallel": Parallel(tensor=64)})}
    with pytest.raises(RecipeError, match="does not divide"):
        dry_runs(small, wrong)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["135m", "1b", "7b", "70b", "moe"])
def test_a_recipe_of_scale_on_as_many_ranks(name: str) -> None:
    recipe = Look(load(SCALE / f"{name}.yaml"), Lines())
    parallel = recipe.recipe.stages["base"].parallel  # type: ignore[union-attr]
    found = tried(recipe, parallel if isinstance(parallel, Parallel) else Parallel())
    held = {line.what: line for line in found.held}
    for what in ("weights", "gradients", "optimizer"):
        assert held[what].planned == pytest.approx(held[what].counted, rel=0.01), what
    assert held["peak"].planned == pytest.approx(held["peak"].counted, rel=0.05)
    for line in found.sent:
        assert line.planned == pytest.approx(line.counted, rel=0.02), line.what
