"""Laws of the roofline and of the search: more is never faster, and what is chosen is legal, fits and is the fastest."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trivium.errors import RecipeError
from trivium.model.config import Experts, ModelConfig
from trivium.plan import flops, memory, roofline, search
from trivium.plan.hardware import accelerator, cluster
from trivium.recipe.parallel import Parallel

SEVEN = ModelConfig(
    vocab_size=32000, dim=4096, layers=32, heads=32, kv_heads=32, head_dim=128, hidden=11008, context=4096,
    tie_embeddings=False,
)  # fmt: skip
MOE = replace(SEVEN, dim=2048, heads=16, kv_heads=16, layers=16, experts=Experts(64, 8, 1024, shared=1))
ASKED = search.Asked(SEVEN, batch=1024, context=4096)


def step(
    config: ModelConfig = SEVEN, on: str = "8xH100", batch: int = 64, micro: int = 1, **axes: int
) -> roofline.Step:
    count = cluster(on).count
    grid = Parallel(**(axes or {"shard": count}))
    return roofline.step(config, cluster(on), roofline.Shape(grid, batch, micro, config.context))


@given(st.integers(1, 4096), st.integers(1, 8192), st.integers(1, 8192))
def test_a_product_takes_at_least_its_arithmetic_and_its_bytes(rows: int, inner: int, columns: int) -> None:
    device = accelerator("H100")
    seconds = roofline.product(device, rows, inner, columns)
    assert seconds >= 2 * rows * inner * columns / device.peak
    assert seconds >= 2 * (rows * inner + inner * columns + rows * columns) / device.bandwidth
    assert roofline.product(device, rows + 1, inner, columns) >= seconds


@pytest.mark.parametrize(
    "config", [SEVEN, MOE, replace(SEVEN, window=1024, windowed=frozenset(range(0, 32, 2)))]
)
def test_the_work_is_the_model_s_and_utilisation_stays_below_the_peak(config: ModelConfig) -> None:
    found = step(config)
    assert found.work == 64 * 4096 * flops.training(config, 4096)
    assert 0.05 < found.utilisation(cluster("8xH100")) < 0.9


def test_more_layers_rows_and_tokens_take_longer() -> None:
    one = step().seconds
    assert step(replace(SEVEN, layers=64)).seconds > 1.8 * one
    assert step(batch=128).seconds > 1.9 * one
    assert step(replace(SEVEN, context=8192)).seconds > 2 * one
    assert step(on="8xA100").seconds > one


def test_slower_links_and_deeper_pipelines_cost_what_they_should() -> None:
    near, far = step(on="8xH100", tensor=8), step(on="8xRTX 4090", tensor=8)
    assert far.parts["tensor ranks"] > 5 * near.parts["tensor ranks"]
    four, eight = (
        step(batch=64, micro=1, data=8 // stages, pipeline=stages).parts["pipeline bubble"]
        for stages in (4, 8)
    )
    assert four < eight  # twice the bubble over twice the passes of half the layers, and more hand-overs
    none = step(data=8).parts
    assert "pipeline bubble" not in none and "tensor ranks" not in none


def test_interleaved_stages_divide_the_bubble_and_take_memory_and_hand_overs() -> None:
    """Narayanan et al. 2021, section 2.2; other codes alone have them."""
    plain = roofline.Shape(Parallel(data=2, pipeline=4), 64, 1, 4096, others=True)
    four = replace(plain, stages=4)
    on = cluster("8xH100")
    one, other = (roofline.step(SEVEN, on, shape).parts for shape in (plain, four))
    assert other["pipeline hand-over"] == 4 * one["pipeline hand-over"]
    more = 3 * one["pipeline hand-over"] * 3 / plain.passes  # the bubble waits for hand-overs, too
    assert other["pipeline bubble"] == pytest.approx((one["pipeline bubble"] + more) / 4)
    asked = replace(ASKED, others=True)
    held = [search.needed(asked, shape).activations for shape in (plain, four)]
    assert held[0] < held[1] < 1.25 * held[0]
    legal = [shape.stages for shape in search.shapes(asked, plain.parallel) if shape.micro == 1]
    assert set(legal) == {1, 2, 4, 8}
    assert {shape.stages for shape in search.shapes(ASKED, plain.parallel)} == {1}


def test_recomputing_takes_a_third_more_products() -> None:
    plain = roofline.Shape(Parallel(shard=8), 64, 1, 4096)
    again = replace(plain, recompute=True)
    one, other = (roofline.step(SEVEN, cluster("8xH100"), shape) for shape in (plain, again))
    assert other.parts["matrix products"] == pytest.approx(4 / 3 * one.parts["matrix products"])
    assert other.work == one.work


@settings(max_examples=15, deadline=None)
@given(st.sampled_from([1, 2, 8, 24, 64]), st.sampled_from(["H100", "A100", "RTX 4090", "B200"]))
def test_what_is_found_is_legal_fits_and_nothing_that_fits_is_faster(count: int, name: str) -> None:
    config = replace(SEVEN, layers=8, dim=1024, heads=8, kv_heads=4, hidden=2816)
    asked = search.Asked(config, batch=192, context=4096)
    on = cluster(f"{count}x{name}")
    found = search.search(asked, on)
    winner = found.winner
    assert winner.shape.parallel.ranks == on.count
    assert (
        winner.shape.passes * winner.shape.micro * winner.shape.parallel.data * winner.shape.parallel.shard
        == 192
    )
    room = search.ROOM * on.accelerator.memory
    assert winner.memory.total <= room
    for grid in list(search.grids(asked, on))[::5]:
        assert (
            grid.ranks == on.count and config.kv_heads % grid.tensor == 0 and config.layers >= grid.pipeline
        )
        for shape in search.shapes(asked, grid):
            if search.needed(asked, shape).total <= room and shape.micro >= 16:
                assert winner.step.seconds <= (1 + search.EQUAL) * roofline.step(config, on, shape).seconds


def test_a_mixture_of_experts_may_share_its_experts() -> None:
    grids = list(search.grids(search.Asked(MOE, 64, 4096), cluster("8xH100")))
    assert Parallel(data=8, expert=8) in grids
    assert all(grid.shard == grid.tensor == grid.pipeline == 1 for grid in grids if grid.expert > 1)


def test_a_model_that_fits_nowhere_is_told_by_how_much_and_where_it_would() -> None:
    with pytest.raises(RecipeError) as error:
        search.search(ASKED, cluster("1xH100"))
    assert "times the 67.1 GiB" in error.value.what and "weights" in error.value.what
    count = int(error.value.fix.split(": ")[1].split(" x")[0])
    assert search.search(ASKED, cluster(f"{count}xH100")).winner
    with pytest.raises(RecipeError):
        search.search(ASKED, cluster(f"{count // 2}xH100"))


def test_a_batch_that_feeds_few_devices_gets_few() -> None:
    small = replace(SEVEN, layers=2, heads=1, kv_heads=1, head_dim=4096)
    assert search.search(search.Asked(small, 8, 512, axes=frozenset()), cluster("64xH100")).cluster.count == 8


def test_memory_by_cause_adds_up_and_sharding_needs_buffers() -> None:
    def held(**axes: int) -> memory.Memory:
        return memory.training(SEVEN, Parallel(**axes), rows=1, context=4096, bf16=True)

    one = held()
    assert sum(one.parts().values()) == one.total
    # 16-bit copies beside the float32 weights, and the output layer's gradient while a chunk's is added to it
    assert one.buffers == 2 * flops.parameters(SEVEN) + 2 * 2 * SEVEN.vocab_size * SEVEN.dim
    sharded = held(shard=64)
    assert sharded.weights == one.weights / 64 and sharded.weights < sharded.buffers < one.buffers
    assert memory.written(SEVEN, 2, 100) == 2 * 100 * 32 * 2 * 4096 * 4
    writing = replace(one, cache=10 * one.total)
    assert writing.total == pytest.approx(11 * one.total - one.activations - one.logits)
