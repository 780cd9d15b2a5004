"""Estimates of memory against what torch holds, and the layouts that follow from them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from trivium.model.config import ModelConfig
from trivium.model.heads import CHUNK
from trivium.model.transformer import Transformer
from trivium.plan import flops
from trivium.plan.memory import LOGITS, training
from trivium.recipe.network import ModelShape
from trivium.recipe.parallel import Parallel

SHAPE = ModelConfig(
    vocab_size=500, dim=64, layers=3, heads=4, kv_heads=2, head_dim=16, hidden=192, context=128
)
BILLION = ModelConfig(
    vocab_size=32000, dim=2048, layers=24, heads=16, kv_heads=16, head_dim=128, hidden=5504, context=2048
)


def kept(config: ModelConfig, rows: int, recompute: bool) -> int:
    """Bytes that autograd holds after a forward pass beside weights, and the two gradients of the logits' size that come next."""
    model = Transformer(config)
    model.initialise(torch.Generator().manual_seed(0))
    model.recompute = recompute
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    seen: dict[int, int] = {}
    alive = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            alive.append(tensor)
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    tokens = torch.zeros(rows, config.context, dtype=torch.long)
    positions = torch.arange(config.context).expand(rows, -1)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        same = torch.zeros_like(tokens)
        model({"tokens": tokens, "positions": positions, "targets": tokens, "doc_id": same}, {"logp"})  # type: ignore[arg-type]
    return sum(seen.values()) + 2 * 4 * rows * config.context * config.vocab_size


@pytest.mark.parametrize("changes", [{}, {"layers": 6}, {"hidden": 512}, {"kv_heads": 4}, {"dim": 128}])
def test_activations_are_what_autograd_keeps(changes: dict[str, int]) -> None:
    config = replace(SHAPE, **changes)
    estimate = training(config, Parallel(), rows=8, context=128)
    assert estimate.activations + estimate.logits == pytest.approx(kept(config, 8, recompute=False), rel=0.1)


def test_weights_gradients_and_moments_are_those_of_adamw() -> None:
    model = Transformer(SHAPE)
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    moments = sum(t.nbytes for s in optimizer.state.values() for t in s.values() if t.dim())
    found = training(SHAPE, Parallel(), rows=1, context=128)
    assert found.weights == found.gradients == sum(p.nbytes for p in model.parameters())
    assert found.optimizer == moments
    assert found.weights == 4 * flops.parameters(SHAPE)


def test_each_axis_takes_its_share() -> None:
    def of(**axes: int):
        return training(BILLION, Parallel(**axes), rows=4, context=2048)

    one = of()
    assert of(data=4) == one
    assert of(shard=4).weights == one.weights / 4
    assert of(shard=4).activations == pytest.approx(one.activations, rel=0.01)
    assert one.weights / 4 < of(tensor=4).weights < one.weights / 3
    assert one.weights / 4 < of(pipeline=4).weights < one.weights / 3
    assert one.activations / 4 < of(tensor=4).activations < one.activations / 2
    assert one.activations / 4 < of(context=4).activations < one.activations / 2
    assert of(shard=4, context=2).weights == one.weights / 8


def test_experts_are_shared() -> None:
    shape = dict(dim=64, layers=2, heads=4, hidden=128, context=32, moe=dict(experts=8))
    config = ModelConfig.from_shape(ModelShape.model_validate(shape), 300)
    whole = training(config, Parallel(data=4), rows=1, context=32).weights
    assert whole == 4 * sum(p.numel() for p in Transformer(config).parameters())
    routed = 4 * sum(p.numel() for n, p in Transformer(config).named_parameters() if ".experts." in n)
    assert training(config, Parallel(data=4, expert=4), rows=1, context=32).weights == whole - routed * 3 / 4


def test_recomputing_keeps_one_block() -> None:
    full, less = (training(BILLION, Parallel(), rows=4, context=2048, recompute=r) for r in (False, True))
    assert less.activations < full.activations / 5


def test_logits_are_held_in_chunks_of_the_size_that_is_counted() -> None:
    assert LOGITS == CHUNK
