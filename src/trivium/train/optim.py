"""The optimizer, as torch has it."""

from __future__ import annotations

import torch
from torch import nn

from trivium.recipe.training import TrainingStage


def adamw(model: nn.Module, config: TrainingStage) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019), fused, with decay on matrices only: norms and other vectors are left alone."""
    matrices = [p for p in model.parameters() if p.requires_grad and p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.requires_grad and p.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)
