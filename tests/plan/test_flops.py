"""Counts against numbers worked out elsewhere, and against the network itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from trivium.model.config import ModelConfig
from trivium.plan import flops, memory
from trivium.recipe.network import Adapter, Moe
from trivium.recipe.parallel import Parallel
from trivium.recipe.training import ModelShape

sys.path.append(str(Path(__file__).parent.parent / "model"))
import families

SHAPES = [
    (ModelShape(dim=64, layers=2, heads=4, kv_heads=2), 500),
    (ModelShape(dim=64, layers=3, heads=2, tie_embeddings=False), 300),
    (ModelShape(dim=48, layers=1, heads=4, qk_norm=True, hidden=100), 512),
]


@pytest.mark.parametrize(("shape", "vocabulary"), SHAPES)
def test_parameters_are_those_of_the_network(shape: ModelShape, vocabulary: int) -> None:
    from trivium.model.transformer import Transformer

    config = ModelConfig.from_shape(shape, vocabulary)
    assert flops.parameters(config) == sum(p.numel() for p in Transformer(config).parameters())


def test_parameters_of_a_published_model() -> None:
    """SmolLM2-135M: 134,515,008 by its model card's safetensors header."""
    shape = ModelShape(dim=576, layers=30, heads=9, kv_heads=3, hidden=1536, context=8192)
    assert flops.parameters(ModelConfig.from_shape(shape, 49152)) == 134_515_008


@pytest.mark.parametrize(("shape", "vocabulary"), SHAPES)
def test_training_is_palm_s_formula(shape: ModelShape, vocabulary: int) -> None:
    config = ModelConfig.from_shape(shape, vocabulary)
    norms = config.layers * (2 * config.dim + (2 * config.head_dim if config.qk_norm else 0)) + config.dim
    look_up = 0 if config.tie_embeddings else vocabulary * config.dim
    counted = flops.parameters(config) - norms - look_up
    attention = 12 * config.layers * config.heads * config.head_dim * 128
    assert flops.training(config, 128) == 6 * counted + attention


ADAPTERS = [
    Adapter(rank=4),
    Adapter(rank=3, targets=["q_proj", "down_proj"], dora=True),
    Adapter(rank=2, targets=["v_proj", "embed_tokens", "lm_head"]),
    Adapter(rank=5, targets=["o_proj", "lm_head"], dora=True),
]


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("experts", [False, True])
@pytest.mark.parametrize(("shape", "vocabulary"), SHAPES)
def test_adapters_have_the_numbers_of_the_real_ones(
    shape: ModelShape, vocabulary: int, experts: bool, adapter: Adapter
) -> None:
    import torch

    from trivium.model import lora
    from trivium.model.transformer import Transformer

    if experts:
        shape = shape.model_copy(update={"moe": Moe(experts=4, top_k=2)})
    config = ModelConfig.from_shape(shape, vocabulary)
    model = Transformer(config)
    lora.attach(model, adapter, torch.Generator().manual_seed(0))
    trained, inside = flops.adapted(config, adapter)
    assert trained == sum(p.numel() for p in model.parameters() if p.requires_grad)
    low = [m for name, m in model.named_modules() if isinstance(m, lora.LoraLinear) and name != "lm_head"]
    assert inside == sum(m.weight.numel() for m in low)


@pytest.mark.parametrize(("shape", "vocabulary"), SHAPES)
def test_a_step_of_full_rows_is_tokens_times_the_work_of_one(shape: ModelShape, vocabulary: int) -> None:
    config = ModelConfig.from_shape(shape, vocabulary)
    for frozen, each in ((False, flops.training), (True, flops.adapting)):
        work = flops.step(config, 5 * 128, 5 * 128**2, frozen=frozen)
        assert work == 5 * 128 * each(config, 128)
        assert (
            flops.step(config, 5 * 128, 10 * 64**2, frozen=frozen) < work
        )  # shorter documents, less attention


@pytest.mark.parametrize(("shape", "vocabulary"), SHAPES)
def test_ppo_s_critic_is_another_trunk(shape: ModelShape, vocabulary: int) -> None:
    """Against torch's counter, forward and backward, on the network that the loop trains."""
    from copy import deepcopy

    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from trivium.model.scalar import ActorCritic
    from trivium.model.transformer import Transformer

    config = ModelConfig.from_shape(shape, vocabulary)
    policy = Transformer(config)
    tokens = torch.zeros(2, 32, dtype=torch.long)
    batch = {"tokens": tokens, "positions": torch.arange(32).expand(2, -1)}

    def counted(critic: Transformer | None) -> float:
        network = ActorCritic(policy, critic)
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            out = network(batch, {"logits", "values"})  # type: ignore[arg-type]
            assert out.logits is not None and out.values is not None
            torch.autograd.grad(
                out.logits.sum() + out.values.sum(), list(network.parameters()), allow_unused=True
            )
        return float(counter.get_total_flops())

    one, both = counted(None), counted(deepcopy(policy))
    for found, critic in ((one, False), (both, True)):
        assert flops.step(config, 64, 2 * 32**2, critic=critic) == pytest.approx(found, rel=0.01)
    assert both > 1.4 * one


def test_forward_is_what_torch_counts() -> None:
    """torch's own counter of matrix products, on one row."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from trivium.model.transformer import Transformer

    config = ModelConfig.from_shape(ModelShape(dim=64, layers=2, heads=4, context=32), 300)
    model = Transformer(config)
    tokens = torch.zeros(1, 32, dtype=torch.long)
    batch = {
        "tokens": tokens, "targets": tokens, "loss_mask": torch.ones(1, 32), "doc_id": tokens,
        "positions": torch.arange(32)[None],
    }  # fmt: skip
    # bf16 takes the attention that is written out; the counter does not know the fused CPU kernel
    with FlopCounterMode(display=False) as counter, torch.autocast("cpu", dtype=torch.bfloat16):
        model(batch, want=frozenset({"logits"}))
    assert counter.get_total_flops() == 32 * flops.forward(config, 32)


@pytest.mark.parametrize("name", families.CASES)
def test_parameters_and_operations_of_every_family(name: str) -> None:
    """Against the network itself and torch's own counter of matrix products."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoConfig

    from trivium.model.families import from_huggingface
    from trivium.model.transformer import Transformer

    kind, changes = families.CASES[name]
    config = from_huggingface(AutoConfig.for_model(kind, **{**families.COMMON, **changes}).to_dict())
    model = Transformer(config)
    assert flops.parameters(config) == sum(p.numel() for p in model.parameters())
    weights = memory.training(config, Parallel(), rows=1, context=32).weights
    assert weights == 4 * flops.parameters(config)
    tokens = torch.zeros(1, 32, dtype=torch.long)
    batch = {"tokens": tokens, "positions": torch.arange(32)[None]}
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        model(batch, {"logits"})  # type: ignore[arg-type]
    assert counter.get_total_flops() == 32 * flops.forward(config, 32)


def test_counting_needs_no_torch() -> None:
    code = "import sys, trivium.plan.cost, trivium.plan.machine; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_utilisation_is_a_share_of_the_peak() -> None:
    assert flops.utilisation(100, 5, 1000) == 0.5


@pytest.mark.parametrize(("shape", "vocabulary"), SHAPES)
def test_muon_s_iterations_are_those_of_the_optimizer(shape: ModelShape, vocabulary: int) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    from trivium.model.transformer import Transformer
    from trivium.train.muon import orthogonal

    config = ModelConfig.from_shape(shape, vocabulary)
    blocks = [p for n, p in Transformer(config).named_parameters() if p.ndim == 2 and "embed" not in n]
    inside = [p for p in blocks if vocabulary not in p.shape]
    with FlopCounterMode(display=False) as counter:
        for matrix in inside:
            orthogonal(matrix.detach()[None], (3.4445, -4.775, 2.0315), 5, 1e-7)
    assert flops.newton_schulz(config) == counter.get_total_flops()
