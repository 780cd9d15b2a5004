"""Rotary positions (Su et al. 2021), plain or slowed for longer rows."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trivium.model.config import ModelConfig
from trivium.recipe.network import RopeScaling


def frequencies(config: ModelConfig, device: torch.device | None = None) -> tuple[Tensor, float]:
    """Radians per position of each pair of a head's numbers, (E / 2,) float32, and the factor on cosines and sines."""
    width = config.head_dim
    exponents = torch.arange(0, width, 2, dtype=torch.float32, device=device) / width
    plain = 1.0 / config.rope_theta**exponents
    scaling = config.rope_scaling
    if scaling is None:
        return plain, 1.0
    if scaling.kind == "linear":
        return plain / scaling.factor, 1.0
    if scaling.kind == "llama3":
        return _llama3(plain, scaling), 1.0
    factor = scaling.attention
    if factor is None:
        factor = 0.1 * math.log(scaling.factor) + 1.0
    return _yarn(plain, scaling, config), factor


def _llama3(plain: Tensor, scaling: RopeScaling) -> Tensor:
    """Llama 3.1: long waves slowed, short ones kept, in between a mixture that is linear in the number of turns."""
    turns = scaling.original * plain / (2 * math.pi)
    keep = ((turns - scaling.low) / (scaling.high - scaling.low)).clamp(0, 1)
    return (1 - keep) * plain / scaling.factor + keep * plain


def _yarn(plain: Tensor, scaling: RopeScaling, config: ModelConfig) -> Tensor:
    """Peng et al. 2023, section 3.2: a ramp over dimensions between beta_fast and beta_slow turns."""

    def dimension(turns: float) -> float:
        ratio = math.log(scaling.original / (turns * 2 * math.pi))
        return config.head_dim * ratio / (2 * math.log(config.rope_theta))

    first, last = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, config.head_dim - 1)
    if first == last:
        last += 0.001
    ramp = (torch.arange(len(plain), dtype=torch.float32, device=plain.device) - first) / (last - first)
    slow = ramp.clamp(0, 1)
    return plain / scaling.factor * slow + plain * (1 - slow)


def rotary(positions: Tensor, config: ModelConfig) -> tuple[Tensor, Tensor]:
    """Cosines and sines in Llama's half-split order: positions (B, T) -> two (B, 1, T, E) float32."""
    frequency, factor = frequencies(config, positions.device)
    angle = positions[:, None, :, None].float() * frequency
    angle = torch.cat((angle, angle), dim=-1)
    if factor == 1.0:
        return angle.cos(), angle.sin()
    return angle.cos() * factor, angle.sin() * factor


@torch.library.custom_op("trivium::once", mutates_args=())
def _once(x: Tensor) -> Tensor:
    return x.clone()


@_once.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def once(x: Tensor) -> Tensor:
    """`x` itself, computed once: the compiler does not look inside, and so does not repeat in every kernel that reads `x` what
    made it (cosines in each layer's forward and backward pass: a sixth of a step, docs/benchmarks.md). Not differentiable.
    """
    made: Tensor = _once(x) if torch.compiler.is_compiling() else x
    return made


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (B, H, T, E), turned by the angles of its positions."""
    first, second = x.float().chunk(2, dim=-1)
    return (x.float() * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)
