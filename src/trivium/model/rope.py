"""Rotary positions (Su et al. 2021), plain or slowed for longer rows."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from trivium.model.config import ModelConfig, Rope
from trivium.recipe.network import RopeScaling


class Angles(NamedTuple):
    """What positions do to queries and keys."""

    cos: Tensor  # (B, 1, T, E) float32, E numbers of a head that are turned
    sin: Tensor
    growth: Tensor | None = None  # (B, 1, T, 1): what queries are multiplied by


def frequencies(
    config: ModelConfig, device: torch.device | None = None, rope: Rope | None = None, *, long: bool = False
) -> tuple[Tensor, float]:
    """Radians per position of each pair of a head's turned numbers, (E / 2,) float32, and the factor on cosines and sines.

    `rope` None means that of the model's layers without windows. `long`: longrope's for texts longer than `original`.
    """
    rope = rope or Rope(config.rope_theta, config.rope_scaling)
    width = config.turned
    exponents = torch.arange(0, width, 2, dtype=torch.float32, device=device) / width
    plain = 1.0 / rope.theta**exponents
    scaling = rope.scaling
    if scaling is None:
        return plain, 1.0
    if scaling.kind == "linear":
        return plain / scaling.factor, 1.0
    if scaling.kind == "llama3":
        return _llama3(plain, scaling), 1.0
    factor = scaling.attention
    if scaling.kind == "longrope":
        own = torch.tensor(scaling.long if long else scaling.short, dtype=torch.float32, device=device)
        return plain / own, longrope_factor(scaling) if factor is None else factor
    if factor is None:
        factor = yarn_factor(scaling.factor)
    return _yarn(plain, scaling, rope.theta, width), factor


def yarn_factor(factor: float, share: float = 1.0) -> float:
    """Peng et al. 2023, eq. 22: what yarn multiplies cosines and sines by where rows become `factor` times longer."""
    return 0.1 * share * math.log(factor) + 1.0 if factor > 1 else 1.0


def longrope_factor(scaling: RopeScaling) -> float:
    """Ding et al. 2024: what longrope multiplies cosines and sines by."""
    return math.sqrt(1 + math.log(scaling.factor) / math.log(scaling.original))


def _llama3(plain: Tensor, scaling: RopeScaling) -> Tensor:
    """Llama 3.1: long waves slowed, short ones kept, in between a mixture that is linear in the number of turns."""
    turns = scaling.original * plain / (2 * math.pi)
    keep = ((turns - scaling.low) / (scaling.high - scaling.low)).clamp(0, 1)
    return (1 - keep) * plain / scaling.factor + keep * plain


def _yarn(plain: Tensor, scaling: RopeScaling, theta: float, width: int) -> Tensor:
    """Peng et al. 2023, section 3.2: a ramp over dimensions between beta_fast and beta_slow turns."""

    def dimension(turns: float) -> float:
        ratio = math.log(scaling.original / (turns * 2 * math.pi))
        return width * ratio / (2 * math.log(theta))

    first, last = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, width - 1)
    if first == last:
        last += 0.001
    ramp = (torch.arange(len(plain), dtype=torch.float32, device=plain.device) - first) / (last - first)
    slow = ramp.clamp(0, 1)
    return plain / scaling.factor * slow + plain * (1 - slow)


def rotary(
    positions: Tensor, config: ModelConfig, rope: Rope | None = None, last: Tensor | None = None
) -> Angles:
    """Cosines and sines in Llama's half-split order, of positions (B, T); `rope` as in `frequencies`.

    `last` (B,): the last position of each row's text, which decides longrope's side where not all of a text is passed; None:
    the texts are in `positions`, each from where they do not rise any more.
    """
    frequency, factor = frequencies(config, positions.device, rope)
    if config.changes_at is not None:
        ends = _ends(positions) if last is None else last[:, None]
        long, _ = frequencies(config, positions.device, rope, long=True)
        frequency = torch.where((ends >= config.changes_at)[:, None, :, None], long, frequency)
    angle = positions[:, None, :, None].float() * frequency
    angle = torch.cat((angle, angle), dim=-1)
    growth = _growth(positions, config) if config.query_growth else None
    if factor == 1.0:
        return Angles(angle.cos(), angle.sin(), growth)
    return Angles(angle.cos() * factor, angle.sin() * factor, growth)


def _ends(positions: Tensor) -> Tensor:
    """The last position of the text that each place belongs to: (B, T) -> (B, T)."""
    new = positions[:, 1:] <= positions[:, :-1]
    number = torch.nn.functional.pad(new.long().cumsum(1), (1, 0))
    return torch.zeros_like(positions).scatter_reduce(1, number, positions, "amax").gather(1, number)


def _growth(positions: Tensor, config: ModelConfig) -> Tensor:
    """Llama 4's sharper attention in long rows, as Ministral 3 has it."""
    original = config.rope_scaling.original if config.rope_scaling is not None else config.context
    rows = torch.floor(positions[:, None, :, None].float() / original)
    return 1 + config.query_growth * torch.log(1 + rows)


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
    held: Tensor = _once(x) if torch.compiler.is_compiling() else x
    return held


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (B, H, T, E), of which the first numbers, as many as there are cosines, are turned by the angles of its positions."""
    width = cos.shape[-1]
    if width < x.shape[-1]:
        return torch.cat((rotate(x[..., :width], cos, sin), x[..., width:]), dim=-1)
    first, second = x.float().chunk(2, dim=-1)
    return (x.float() * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)
