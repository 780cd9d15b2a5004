"""`parallel: auto`: the search's layout, of the axes that a stage may have."""

from __future__ import annotations

import pytest

from trivium.errors import RecipeError
from trivium.plan.cost import model_of
from trivium.plan.hardware import accelerator, cluster, of_this_machine
from trivium.plan.layout import as_found, lay_out
from trivium.recipe.lines import Lines
from trivium.recipe.load import loads
from trivium.recipe.look import Look
from trivium.recipe.parallel import Parallel
from trivium.recipe.training import TrainingStage

RECIPE = """\
name: auto
stages:
  corpus: {{kind: data, sources: [{{kind: python-docs}}]}}
  vocab: {{kind: tokenizer, data: corpus, vocab_size: 32K}}
  base:
    kind: pretrain
    data: corpus
    tokenizer: vocab
    model: {{dim: {dim}, layers: 32, heads: 32, kv_heads: 8, context: 4096}}
    tokens: 100B
    batch: 1024
    parallel: auto
    {more}
"""


def auto(on: str, dim: int = 4096, more: str = "") -> TrainingStage:
    look = Look(loads(RECIPE.format(dim=dim, more=more)), Lines())
    stage, config = look.recipe.stages["base"], model_of(look, "base")
    assert isinstance(stage, TrainingStage) and config is not None
    return as_found(stage, lay_out(look, stage, config, 4096, cluster(on)))


def grid(stage: TrainingStage) -> Parallel:
    assert isinstance(stage.parallel, Parallel)
    return stage.parallel


def test_copies_where_the_model_fits_and_cuts_where_it_does_not() -> None:
    assert grid(auto("8xH100", dim=1024)) == Parallel(data=8)
    cut = auto("64xH100", dim=8192)
    assert grid(cut).shard * grid(cut).tensor * grid(cut).pipeline > 1 and grid(cut).ranks == 64
    assert cut.micro_batch is not None and 1024 % (cut.micro_batch * grid(cut).data * grid(cut).shard) == 0


def test_what_the_recipe_says_of_micro_batches_and_recomputation_stays() -> None:
    said = auto("64xH100", more="micro_batch: 2\n    recompute: blocks")
    assert (said.micro_batch, said.recompute) == (2, "blocks")
    assert auto("64xH100", more="micro_batch: 1\n    recompute: none").recompute == "none"


@pytest.mark.parametrize(
    ("more", "closed"), [("optimizer: muon", ("shard", "tensor")), ("z_loss: 1e-4", ("pipeline",))]
)
def test_axes_that_the_stage_may_not_have_are_not_tried(more: str, closed: tuple[str, ...]) -> None:
    parallel = grid(auto("64xH200", dim=2048, more=more))
    assert parallel.ranks == 64 and all(getattr(parallel, axis) == 1 for axis in closed)


@pytest.mark.parametrize(
    ("name", "gib", "meant"),
    [
        ("NVIDIA H100 80GB HBM3", 79, "h100-sxm"),
        ("NVIDIA A100 80GB PCIe", 79, "a100-pcie-80"),
        ("NVIDIA A100-SXM4-40GB", 39, "a100-sxm-40"),
        ("NVIDIA GH200 480GB", 95, "gh200"),
        ("NVIDIA GeForce RTX 4090", 24, "rtx4090"),
    ],
)
def test_the_gpus_of_a_machine_are_known_by_their_drivers_name(name: str, gib: float, meant: str) -> None:
    found = of_this_machine(name, gib * 2**30, 8)
    assert (found.accelerator.peak, found.count) == (accelerator(meant).peak, 8)
    assert found.accelerator.id == meant and found.accelerator.memory == gib * 2**30


def test_an_unknown_gpu_is_told_and_how_to_describe_it() -> None:
    with pytest.raises(RecipeError, match="no accelerator `Voodoo 2`"):
        of_this_machine("Voodoo 2", 2**30, 1)


@pytest.mark.parametrize(
    ("launch", "said"),
    [
        ("parallel: {data: 2}\n    launch: {on: 2xH100}", "names its layout"),
        ("launch: {kind: slurm}", "does not say what devices there are"),
    ],
)
def test_devices_are_named_where_they_decide_and_nowhere_else(launch: str, said: str) -> None:
    text = RECIPE.format(dim=1024, more=launch)
    if "parallel: {" in launch:
        text = text.replace("    parallel: auto\n", "")
    with pytest.raises(RecipeError, match=said):
        loads(text)
