"""The learning rate as a share of its peak: a pure function of the step, so that resuming needs no state."""

from __future__ import annotations

import math

import torch

from trivium.recipe.training import TrainingStage


def set_rates(optimizer: torch.optim.Optimizer, config: TrainingStage, step: int, steps: int) -> None:
    """Gives every group its learning rate for `step`: its own `peak` times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor(config, step, steps)


def factor(config: TrainingStage, step: int, steps: int) -> float:
    """Share of the peak learning rate at `step` (from 0) of `steps`.

    Linear warm-up, then `cosine` (Loshchilov & Hutter 2017), `linear`, `wsd` (warm-up, stable, linear
    decay; Hu et al. 2024) or constant.
    """
    warmup = round(config.warmup * steps)
    if step < warmup:
        return (step + 1) / warmup
    if config.schedule == "cosine":
        done = (step - warmup) / max(1, steps - warmup)
        return config.lr_end + (1 - config.lr_end) * 0.5 * (1 + math.cos(math.pi * done))
    if config.schedule == "linear":
        return config.lr_end + (1 - config.lr_end) * (steps - step) / max(1, steps - warmup)
    if config.schedule == "wsd":
        left = (steps - step) / max(1, round(config.decay * steps))
        return config.lr_end + (1 - config.lr_end) * min(1.0, left)
    return 1.0
