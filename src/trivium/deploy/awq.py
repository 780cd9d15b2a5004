"""Scales of input channels that spare the weights which matter most when a matrix is rounded (AWQ, Lin et al. 2023): a channel
that is large on the data has its weights multiplied by s_k before they are rounded, and what gives the channel is divided by it.

    s* = argmin over alpha of  sum over the layers that read it of || (Q(W diag(s)) diag(s)^-1 - W) X ||^2        (eq. 4)
    s  = (mean |x|)^alpha / sqrt(max s min s),   alpha = 0, 1/20, ... 19/20                                        (eq. 5)

Without rounding the model stays what it was, and no program that reads the file has to know of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trivium.model.attention import Attention
from trivium.model.swiglu import SwiGLU
from trivium.model.transformer import Block

GRID = 20
"""Values of alpha that are tried."""


class Seen(NamedTuple):
    """The inputs x of a layer on the data, all in float64."""

    hessian: Tensor  # (K, K): sum of x x'
    size: Tensor  # (K,): sum of |x|

    @staticmethod
    def none(width: int) -> Seen:
        return Seen(torch.zeros(width, width, dtype=torch.float64), torch.zeros(width, dtype=torch.float64))

    def plus(self, inputs: Tensor) -> Seen:
        """With more of them, (T, K) float64."""
        return Seen(self.hessian + inputs.T @ inputs, self.size + inputs.abs().sum(0))

    def over(self, scales: Tensor) -> Seen:
        """Of the inputs divided by `scales` (K,)."""
        return Seen(self.hessian / scales[:, None] / scales, self.size / scales)


class Fold(NamedTuple):
    """Layers that read the same channels, and what gives these: a norm, or a layer by its rows."""

    gives: nn.Module
    readers: tuple[str, ...]
    heads: tuple[int, int] | None = None
    """(key heads, query heads for each) where a row of `gives` is read by several heads."""

    def shared(self, size: Tensor) -> Tensor:
        """Sizes (K,), of which those that come from one row are the same: their mean."""
        if self.heads is None:
            return size
        grouped = size.view(*self.heads, -1)
        return grouped.mean(1, keepdim=True).expand_as(grouped).flatten()

    def rows(self, scales: Tensor) -> Tensor:
        """Of scales (K,), one for each row of `gives`."""
        return scales if self.heads is None else scales.view(*self.heads, -1)[:, 0].flatten()


def folds(block: Block) -> Iterator[Fold]:
    """What can be scaled in a block. A norm behind a layer gives nothing, and what an activation bends cannot be divided."""
    attention, mlp = block.self_attn, block.mlp
    if isinstance(attention, Attention):
        if block.before:
            yield Fold(block.input_layernorm, tuple(f"self_attn.{name}_proj" for name in "qkv"))
        heads = (attention.kv_heads, attention.heads // attention.kv_heads)
        yield Fold(attention.v_proj, ("self_attn.o_proj",), heads)
    gated = isinstance(mlp, SwiGLU)
    if block.before:
        before = block.pre_feedforward_layernorm if block.behind else block.post_attention_layernorm
        yield Fold(before, ("mlp.gate_proj", "mlp.up_proj") if gated else ("mlp.up_proj",))
    if isinstance(mlp, SwiGLU) and mlp.clamp is None:
        yield Fold(mlp.up_proj, ("mlp.down_proj",))


def scales(
    weights: Sequence[Tensor], inputs: Seen, size: Tensor, rounded: Callable[[Tensor], Tensor]
) -> Tensor:
    """s (K,) float64 for matrices (N, K) that read the same inputs; `size` (K,): the mean of |x|, `rounded`: Q."""
    best, least = torch.ones_like(size), float("inf")
    for step in range(GRID):
        tried = size.pow(step / GRID).clamp_min(1e-4)
        tried = tried / (tried.max() * tried.min()).sqrt()
        error = 0.0
        for weight in weights:
            off = rounded(weight * tried).double() / tried - weight
            error += float(((off @ inputs.hessian) * off).sum())
        if error < least:
            best, least = tried, error
    return best


def fold(
    block: Block, layers: Mapping[str, nn.Linear], inputs: dict[str, Seen], tokens: int,
    rounded: Callable[[Tensor], Tensor],
) -> None:  # fmt: skip
    """Scales the weights of a block, and `inputs` (by layer) with them. `tokens`: how many the inputs were."""
    for one in folds(block):
        first = inputs[one.readers[0]]
        weights = [layers[name].weight.double() for name in one.readers]
        found = scales(weights, first, one.shared(first.size / tokens), rounded)
        given = one.gives.weight
        assert isinstance(given, Tensor)
        if not isinstance(one.gives, nn.Linear):
            found = _exact(given.double(), found)
        rows = one.rows(found)
        for parameter in (given, getattr(one.gives, "bias", None)):
            if isinstance(parameter, Tensor):
                parameter.div_(rows if parameter.dim() == 1 else rows[:, None])
        for name in one.readers:
            layers[name].weight.mul_(found)
            inputs[name] = inputs[name].over(found)


def _exact(weight: Tensor, found: Tensor) -> Tensor:
    """Scales next to those `found` by which a norm's weight (K,) can be divided without rounding in bf16, as it is saved."""
    divided = (weight / found).to(torch.bfloat16).double()
    return torch.where(divided == 0, 1.0, weight / divided)
