"""The feed-forward layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trivium.model.config import ModelConfig


def activate(x: Tensor, name: str) -> Tensor:
    """SiLU, or GELU (Hendrycks & Gimpel 2016), exact or by its tanh approximation."""
    if name == "silu":
        return F.silu(x)
    return F.gelu(x, approximate="tanh" if name == "gelu_tanh" else "none")


class SwiGLU(nn.Module):
    """Shazeer 2020: down(silu(gate(x)) * up(x)); with `activation` gelu_tanh it is GeGLU (Gemma).

    `clamp` (alpha, limit), as gpt-oss has it: gate at most `limit`, up within +-limit, gate * sigmoid(alpha gate) * (up + 1).
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        bias: bool = False,
        activation: str = "silu",
        clamp: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        self.activation, self.clamp = activation, clamp
        self.gate_proj = nn.Linear(dim, hidden, bias=bias)
        self.up_proj = nn.Linear(dim, hidden, bias=bias)
        self.down_proj = nn.Linear(hidden, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_proj(x), self.up_proj(x)
        if self.clamp is None:
            inner = activate(gate, self.activation) * up
        else:
            alpha, limit = self.clamp
            gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
            inner = gate * torch.sigmoid(alpha * gate) * (up + 1)
        out: Tensor = self.down_proj(inner)
        return out


class FeedForward(nn.Module):
    """Without a gate, as GPT-2 has it: down(activation(up(x)))."""

    def __init__(self, dim: int, hidden: int, bias: bool, activation: str) -> None:
        super().__init__()
        self.activation = activation
        self.up_proj = nn.Linear(dim, hidden, bias=bias)
        self.down_proj = nn.Linear(hidden, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(activate(self.up_proj(x), self.activation))
        return out


def feed_forward(config: ModelConfig) -> nn.Module:
    """The dense layer of a model's blocks."""
    kind = SwiGLU if config.gated else FeedForward
    return kind(config.dim, config.hidden, config.mlp_bias, config.activation)
