"""Matrices in float8 (e4m3: 4 bits of exponent, 3 of mantissa, up to 448; Micikevicius et al. 2022) with a scale for each output
channel, as compressed-tensors writes them: what Hopper multiplies. Elsewhere, so here, they are read as floats.

    w_nk = s_n q_nk,   s_n = max |w_n| / 448 rounded to bf16
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from trivium.deploy import int4
from trivium.model.hf import Quantisation, compressed_tensors
from trivium.model.transformer import Transformer

LARGEST = torch.finfo(torch.float8_e4m3fn).max


def nearest(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(N, K) -> e4m3 (N, K) and scales (N, 1) bf16."""
    scales = (weight.float().abs().amax(-1, keepdim=True) / LARGEST).clamp_min(1e-12).to(torch.bfloat16)
    numbers = (weight.float() / scales.float()).clamp(-LARGEST, LARGEST)
    return numbers.to(torch.float8_e4m3fn), scales


@torch.no_grad()
def quantized(model: Transformer, *, inputs: bool) -> tuple[Quantisation, float]:
    """The tensors of every linear layer of the blocks, and the worst `int4.off_by`; `model` keeps what they stand for.

    `inputs`: the file asks for these to be rounded to e4m3, too. ArtifactError as in `int4.check`.
    """
    int4.check(model.config)
    tensors: dict[str, Tensor] = {}
    worst = 0.0
    for name, layer in _layers(model):
        numbers, scales = nearest(layer.weight)
        floats = numbers.float() * scales.float()
        worst = max(worst, int4.off_by(layer.weight, floats))
        layer.weight.copy_(floats)
        tensors |= {f"{name}.weight": numbers, f"{name}.weight_scale": scales}
    return Quantisation(scheme(inputs), tensors), worst


def _layers(model: Transformer) -> list[tuple[str, nn.Linear]]:
    inside = model.model.layers.named_modules(prefix="model.layers")
    return [(name, module) for name, module in inside if isinstance(module, nn.Linear)]


@contextmanager
def rounded_inputs(model: Transformer) -> Iterator[None]:
    """Inside, what the linear layers of the blocks are given is rounded to e4m3 with a scale for each token, as Hopper has it."""

    def rounded(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = inputs[0].float()
        scale = (x.abs().amax(-1, keepdim=True) / LARGEST).clamp_min(1e-12)
        return ((x / scale).to(torch.float8_e4m3fn).float().mul(scale).to(inputs[0].dtype), *inputs[1:])

    handles = [layer.register_forward_pre_hook(rounded) for _, layer in _layers(model)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def scheme(inputs: bool) -> dict[str, object]:
    """`quantization_config` of config.json."""
    numbers: dict[str, object] = {"num_bits": 8, "type": "float", "symmetric": True}
    rounded = {**numbers, "strategy": "token", "dynamic": True} if inputs else None
    return compressed_tensors(
        "float-quantized", {**numbers, "strategy": "channel", "dynamic": False}, rounded
    )
