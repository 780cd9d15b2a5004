"""Norms, computed in float32."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trivium.model.config import ModelConfig


def scaled(x: Tensor, factor: float) -> Tensor:
    return x if factor == 1.0 else x * factor


class RMSNorm(nn.Module):
    """Zhang & Sennrich 2019: x / rms(x) * weight, computed in float32."""

    def __init__(self, dim: int, eps: float, scale: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps, self.scale = eps, scale

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        root = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return scaled(wide * root * self.weight.float(), self.scale).to(x.dtype)


class LayerNorm(nn.Module):
    """Ba et al. 2016: (x - mean(x)) / std(x) * weight + bias, computed in float32."""

    def __init__(self, dim: int, eps: float, scale: float = 1.0) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))
        self.eps, self.scale = eps, scale

    def forward(self, x: Tensor) -> Tensor:
        normed = F.layer_norm(x.float(), self.weight.shape, self.weight.float(), self.bias.float(), self.eps)
        return scaled(normed, self.scale).to(x.dtype)


def norm(config: ModelConfig, scale: float = 1.0) -> nn.Module:
    """The norm of a model's residual stream."""
    kind = LayerNorm if config.layer_norm else RMSNorm
    return kind(config.dim, config.norm_eps, scale)
