"""Keys and values of the tokens seen so far, so that each new token costs one position."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


def cache_dtype(weight: Tensor) -> torch.dtype:
    """What keys and values are kept in: the precision of the pass; float32 on a CPU, whose kernel for one bf16 query is far
    slower than that for float32 (docs/benchmarks.md, "Generation")."""
    if weight.device.type == "cpu":
        return torch.promote_types(weight.dtype, torch.float32)
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


class Cache(Protocol):
    """What a pass finds of earlier ones and leaves for later ones; `generate/slots.py` and `generate/paged.py` have one each."""

    last: Tensor | None
    """(B,) int64: last position of each row's text, see `rope.rotary`."""

    @property
    def query_places(self) -> Tensor | None:
        """Where the queries stand among the keys, (B, T) or (B, 1); None where the queries are the keys."""

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Writes k and v (B, K, T, E); returns what the pass attends to, (B, K, keys, E)."""
