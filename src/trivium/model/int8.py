"""int8: each output channel of a linear layer is stored as 127 steps of its own scale. Its inputs may be rounded, too, each token
to steps of a scale of its own, so that products are those of whole numbers."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PACKED_ROWS = 8
"""Up to this many rows at once the packed kernel reads a quarter of the bytes and wins; above it, bf16 products do."""


def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric rounding to int8: weight (N, K) -> (int8 (N, K), scale (N, 1) bf16), error about scale / 2 at most.

    The scale is rounded to bf16 (as it is stored) before the division, so that its own rounding costs nothing.
    """
    scale = (weight.float().abs().amax(dim=1, keepdim=True) / 127).clamp_min(1e-12).to(torch.bfloat16)
    return (weight.float() / scale.float()).round().clamp(-127, 127).to(torch.int8), scale


def packable(matrix: Tensor) -> bool:
    """Whether the packed kernel may read a matrix: it loads 16 values at a time and crashes on rows that start elsewhere."""
    aligned = matrix.shape[1] % 16 == 0 and matrix.data_ptr() % 16 == 0
    return aligned and matrix.device.type == "cpu" and matrix.is_contiguous()


def rounded(x: Tensor) -> tuple[Tensor, Tensor]:
    """x (..., K) -> whole numbers from -128 to 127 (..., K) float32 and steps (..., 1), as compressed-tensors has them: a step is
    a 127.5th of the largest. What is no number makes its step none."""
    x = x.float()
    largest = x.abs().amax(-1, keepdim=True)
    step = torch.where(largest > 0, largest / 127.5, torch.where(largest == 0, 1.0, torch.nan))
    return (x / step).round().clamp(-128, 127), step


class Int8Linear(nn.Module):
    """y = x (weight * weight_scale)' + bias. The names are those of the compressed-tensors layout."""

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor | None
    rounds_inputs: bool = False
    """Whether x is `rounded` first."""

    def __init__(self, inputs: int, outputs: int, bias: bool = False) -> None:
        super().__init__()
        self.in_features, self.out_features = inputs, outputs
        self.register_buffer("weight", torch.zeros(outputs, inputs, dtype=torch.int8))
        self.register_buffer("weight_scale", torch.ones(outputs, 1, dtype=torch.bfloat16))
        self.register_buffer("bias", torch.zeros(outputs, dtype=torch.bfloat16) if bias else None)

    @classmethod
    def of(cls, layer: nn.Linear) -> Int8Linear:
        """A layer with its weights rounded."""
        made = cls(layer.in_features, layer.out_features)
        made.weight, made.weight_scale = quantize(layer.weight.detach())
        made.bias = None if layer.bias is None else layer.bias.detach()
        return made

    def forward(self, x: Tensor) -> Tensor:
        if self.rounds_inputs:
            numbers, step = rounded(x)  # bf16 holds them exactly
            product = F.linear(numbers.to(x.dtype), self.weight.to(x.dtype)).float()
            out = product * step * self.weight_scale.float().flatten()
            return (out if self.bias is None else out + self.bias).to(x.dtype)
        flat = x.reshape(-1, x.shape[-1])
        few = 0 < flat.shape[0] <= PACKED_ROWS and x.dtype == torch.bfloat16 and not x.requires_grad
        few = few and self.weight_scale.dtype == torch.bfloat16  # the kernel has no other
        if few and packable(flat) and packable(self.weight):
            product = torch._weight_int8pack_mm(flat, self.weight, self.weight_scale.flatten())
            out = product.view(*x.shape[:-1], self.out_features)
            return out if self.bias is None else out + self.bias
        bias = None if self.bias is None else self.bias.to(x.dtype)
        if torch.is_grad_enabled() and x.requires_grad:
            found: Tensor = _Frozen.apply(x, self.weight, self.weight_scale)  # type: ignore[no-untyped-call]
            return found if bias is None else found + bias
        return F.linear(x, self.dequantised().to(x.dtype), bias)

    def dequantised(self) -> Tensor:
        """The weight (N, K) float32 that the integers stand for."""
        return _floats(self.weight, self.weight_scale)


def _floats(weight: Tensor, scale: Tensor) -> Tensor:
    return weight.float() * scale.float()


class _Frozen(torch.autograd.Function):
    """The product with a weight that learns nothing: integers are kept for the way back, and made floats again there. Otherwise
    every layer's floats would wait for it, four times what rounding has saved."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(weight, scale)
        return F.linear(x, _floats(weight, scale).to(x.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        weight, scale = ctx.saved_tensors
        return gradient @ _floats(weight, scale).to(gradient.dtype), None, None


def round_layers(model: nn.Module, inputs: bool = False) -> None:
    """Rounds the linear layers of the blocks to int8; the floats are gone. `inputs`: what they are given is rounded, too."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and name != "lm_head":
                setattr(parent, name, Int8Linear.of(child))
    if inputs:
        round_inputs(model)


def rounds_inputs(model: nn.Module) -> bool:
    """Whether layers of it round what they are given."""
    return any(isinstance(module, Int8Linear) and module.rounds_inputs for module in model.modules())


def round_inputs(model: nn.Module) -> None:
    """From here on the layers of int8 round what they are given."""
    for module in model.modules():
        if isinstance(module, Int8Linear):
            module.rounds_inputs = True


def with_int8_layers(model: nn.Module, only: Set[str] | None = None) -> nn.Module:
    """Replaces linear layers of the blocks by empty Int8Linears, ready to load a quantised state dict.

    `only`: names of the layers that are int8; None means all.
    """
    for path, parent in list(model.named_modules()):
        for name, child in list(parent.named_children()):
            full = f"{path}.{name}"
            chosen = only is None or full in only
            if isinstance(child, nn.Linear) and name != "lm_head" and chosen:
                setattr(
                    parent, name, Int8Linear(child.in_features, child.out_features, child.bias is not None)
                )
    return model
