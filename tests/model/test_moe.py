"""Experts: grouped equals one by one, load evens out, the bias is part of what is trained and kept."""

from __future__ import annotations

import families
import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from trivium.model import hf
from trivium.model.config import Experts, ModelConfig
from trivium.model.moe import MixtureOfExperts, balance
from trivium.model.transformer import Transformer
from trivium.plan import flops
from trivium.recipe.network import ModelShape

SHAPE = ModelShape.model_validate(
    dict(dim=32, layers=3, heads=4, kv_heads=2, hidden=96, context=64, moe=dict(experts=6, top_k=2, dense=1))
)


def network(seed: int = 0) -> Transformer:
    model = Transformer(ModelConfig.from_shape(SHAPE, 97))
    model.initialise(torch.Generator().manual_seed(seed))
    return model


def test_a_recipe_s_model_is_what_transformers_makes_of_it(tmp_path):
    from transformers import AutoModelForCausalLM

    model = network()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor.mul_(4) if tensor.dim() == 2 else tensor.add_(torch.linspace(-0.5, 0.5, len(tensor)))
            assert "load" not in name
    hf.save(model, tmp_path, eos=96, pad=1)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = theirs(families.tokens()).logits
    assert expected.std() > 0.1
    assert (families.logits(model, families.tokens()) - expected).abs().max() < 1e-4
    assert hf.load(tmp_path).config == model.config


def test_grouped_equals_one_token_at_a_time():
    layer = MixtureOfExperts(16, Experts(5, 2, 8, shared=1, scale=1.7))
    generator = torch.Generator().manual_seed(1)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    x = torch.randn(2, 7, 16, generator=generator, requires_grad=True)
    slow = []
    for token in x.reshape(-1, 16):
        scores = F.linear(token, layer.gate.weight).sigmoid()
        best = scores.topk(2).indices
        share = scores[best] / scores[best].sum() * 1.7
        routed = sum(share[i] * layer.experts[int(expert)](token) for i, expert in enumerate(best))
        slow.append(routed + layer.shared_experts(token))
    naive = torch.stack(slow).view_as(x)
    fast = layer(x)
    assert torch.allclose(fast, naive, atol=1e-4)
    ours = torch.autograd.grad(fast.square().sum(), x)[0]
    theirs = torch.autograd.grad(naive.square().sum(), x)[0]
    assert (ours - theirs).norm() < 1e-5 * theirs.norm()


def test_the_bias_evens_out_a_lopsided_load():
    layer = MixtureOfExperts(16, Experts(8, 2, 8, balance=0.02))
    generator = torch.Generator().manual_seed(1)
    torch.nn.init.normal_(layer.gate.weight, generator=generator, std=0.3)
    x = torch.randn(1, 512, 16, generator=generator) + 0.5  # all tokens alike: some experts get most of them
    loads = []
    for _ in range(60):
        layer(x)
        loads.append(float(balance(layer, lambda t: t)["expert_load"][0]))
    assert loads[0] > 2
    assert loads[-1] < 1.3
    assert layer.gate.e_score_correction_bias.abs().max() > 0.1


def test_bias_chooses_and_does_not_weigh():
    layer = MixtureOfExperts(16, Experts(4, 1, 8, normalise=False))
    x = torch.randn(9, 16, generator=torch.Generator().manual_seed(1))
    torch.nn.init.normal_(layer.gate.weight, generator=torch.Generator().manual_seed(2))
    layer.gate.e_score_correction_bias += torch.tensor([9.0, 0, 0, 0])
    chosen, weights = layer.gate(x)
    assert (chosen == 0).all()
    assert (weights < 1).all()


def test_nothing_is_counted_while_validating():
    layer = MixtureOfExperts(16, Experts(4, 2, 8))
    with torch.no_grad():
        layer(torch.randn(3, 5, 16))
    assert balance(layer, lambda t: t) == {}


def test_parameters_and_flops_are_counted_as_they_are():
    model = network()
    assert flops.parameters(model.config) == sum(p.numel() for p in model.parameters())
    tokens = families.tokens(2, 32)
    positions = torch.arange(32).expand(2, 32)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        model({"tokens": tokens, "positions": positions}, {"logits"})
    per_token = counter.get_total_flops() / 64
    assert per_token == pytest.approx(flops.forward(model.config, 32), rel=0.01)


def test_int8_experts_without_tokens():
    """Also in bf16 and with few rows, where the packed kernel runs."""
    small = hf.quantized(network()).eval()
    exact = families.logits(network().eval(), families.tokens(1, 3))
    assert (families.logits(small, families.tokens(1, 3)) - exact).abs().max() < 0.1
