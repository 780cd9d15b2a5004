"""The points of the roofline are the work of the model, and none lies above the roof."""

from __future__ import annotations

from dataclasses import replace

import pytest

from trivium.model.config import Experts, ModelConfig
from trivium.plan import flops
from trivium.plan.hardware import accelerator
from trivium.plan.operations import operations
from trivium.plan.roofline import Shape
from trivium.recipe.parallel import Parallel

SEVEN = ModelConfig(
    vocab_size=32000, dim=4096, layers=32, heads=32, kv_heads=8, head_dim=128, hidden=11008, context=4096,
    tie_embeddings=False,
)  # fmt: skip
EXPERTS = replace(SEVEN, experts=Experts(64, 8, 1024))


@pytest.mark.parametrize(
    "config", [SEVEN, replace(SEVEN, gated=False), EXPERTS], ids=["dense", "plain", "experts"]
)
def test_the_work_is_that_of_a_forward_pass(config: ModelConfig) -> None:
    device = accelerator("H100")
    shape = Shape(Parallel(), batch=2, micro=2, context=4096)
    found = {one.name: one for one in operations(config, device, shape)}
    outside = ("output layer", "optimizer", "norms, positions, gates")
    inside = sum(one.work for name, one in found.items() if name not in outside)
    square = flops.square(config) * config.context / 2  # the masked half is left out
    router = 0 if config.experts is None else 2 * config.dim * config.experts.count * config.layers
    whole = flops.forward(config, config.context) - square - router
    assert config.layers * inside + found["output layer"].work == pytest.approx(2 * 4096 * whole)
    for one in found.values():
        assert one.rate <= min(device.peak, one.intensity * device.bandwidth) * 1.0001, one.name
