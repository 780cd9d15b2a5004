"""Keys and values of the tokens seen so far, so that each new token costs one position."""

from __future__ import annotations

import torch
from torch import Tensor

from trivium.model.config import ModelConfig


def cache_dtype(weight: Tensor) -> torch.dtype:
    """What keys and values are kept in: the precision of the pass; float32 on a CPU, whose kernel for one bf16 query is far
    slower than that for float32 (docs/benchmarks.md, "Generation")."""
    if weight.device.type == "cpu":
        return torch.promote_types(weight.dtype, torch.float32)
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


class Cache:
    """Room for `capacity` positions of B rows: two tensors (B, K, capacity, E) per layer, of `config.cached` heads and widths."""

    def __init__(
        self, config: ModelConfig, rows: int, capacity: int, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.keys, self.values = (
            [
                torch.empty(rows, heads, capacity, width, dtype=dtype, device=device)
                for _ in range(config.layers)
            ]
            for heads, width in config.cached
        )
        self.length = 0
        self.last: Tensor | None = None  # of each row's text, see `rope.rotary`

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Writes k and v (B, K, T, E) behind what is there; returns everything so far. `advance` ends the pass."""
        end = self.length + k.shape[2]
        self.keys[layer][:, :, self.length : end] = k
        self.values[layer][:, :, self.length : end] = v
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]

    def advance(self, tokens: int) -> None:
        self.length += tokens

    def keep(self, rows: Tensor) -> None:
        """Drops all rows but these: finished sequences leave the batch."""
        self.keys = [k[rows] for k in self.keys]
        self.values = [v[rows] for v in self.values]
