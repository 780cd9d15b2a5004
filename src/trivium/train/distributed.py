"""Sums over ranks. One process is the case where there is nothing to add."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn


def layout() -> tuple[int, int]:
    """(rank, number of ranks)."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def global_sum(value: Tensor) -> Tensor:
    """The sum of `value` over all ranks, on every rank."""
    if dist.is_initialized():
        value = value.clone()
        dist.all_reduce(value)
    return value


def any_rank(flag: bool, device: str) -> bool:
    """Whether the flag is set on some rank: what all ranks must decide alike."""
    return bool(global_sum(torch.tensor(float(flag), device=device))) if dist.is_initialized() else flag


def sum_gradients(model: nn.Module) -> None:
    """Adds the gradients of all ranks. A sum, not a mean: the loop has already divided by the global weight."""
    if dist.is_initialized():
        for parameter in model.parameters():
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)
