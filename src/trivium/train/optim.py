"""The optimizer, as torch has it."""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from trivium.recipe.training import TrainingStage


def adamw(model: nn.Module, config: TrainingStage) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019), fused, with decay on matrices only: norms and other vectors are left alone."""
    matrices = [p for p in model.parameters() if p.requires_grad and p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.requires_grad and p.dim() < 2]
    groups = [
        {"params": same, "weight_decay": decay}
        for several, decay in ((matrices, config.weight_decay), (vectors, 0.0))
        for same in _by_layout(several)
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)


def _by_layout(parameters: list[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Parameters that lie on the same ranks in the same way: one fused kernel takes only those together."""
    groups: dict[object, list[nn.Parameter]] = {}
    for parameter in parameters:
        where = parameter.device_mesh if isinstance(parameter, DTensor) else None
        groups.setdefault(where, []).append(parameter)
    return list(groups.values())
