"""The optimizers, as torch has them: AdamW, or Muon for the matrices inside the blocks with AdamW for the rest."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from trivium.model.transformer import Transformer
from trivium.recipe.training import TrainingStage
from trivium.train.distributed import is_dtensor
from trivium.train.muon import Muon

Groups = list[dict[str, Any]]


def build(model: nn.Module, config: TrainingStage) -> torch.optim.Optimizer:
    """The optimizer of a stage. Each group's `peak` is its highest learning rate, which the schedule multiplies."""
    return OPTIMIZERS[config.optimizer](model, config)


def adamw(model: nn.Module, config: TrainingStage) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019), fused, with decay on matrices only: norms and other vectors are left alone.

    Under muP (Yang et al. 2022, table 8) the matrices of the blocks have their learning rate divided by the width's ratio;
    their decay (learning rate x weight_decay) stays what it was; so does that of embeddings with an `embed_lr`.
    """
    return _adamw(model, [p for p in model.parameters() if p.requires_grad], config)


def _adamw(model: nn.Module, parameters: list[nn.Parameter], config: TrainingStage) -> torch.optim.AdamW:
    ratio = width_ratio(model)
    inner = _inside(model) if ratio != 1.0 else set()
    embeddings = _embeddings(model) if config.embed_lr is not None else set()
    hidden = [p for p in parameters if p in inner]
    read = [p for p in parameters if p in embeddings]
    matrices = [p for p in parameters if p.dim() >= 2 and p not in inner and p not in embeddings]
    vectors = [p for p in parameters if p.dim() < 2]
    rate = config.embed_lr or config.lr
    groups = [
        {"params": same, "weight_decay": decay, "peak": peak}
        for several, decay, peak in (
            (matrices, config.weight_decay, config.lr),
            (read, config.weight_decay * config.lr / rate, rate),
            (hidden, config.weight_decay * ratio, config.lr / ratio),
            (vectors, 0.0, config.lr),
        )
        for same in _by_layout(several)
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)


class MuonAdamW(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) and AdamW side by side, seen as one: joint groups, joint state. Either may be absent: adapters
    are matrices inside the blocks and nothing else."""

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        self.parts = parts
        groups = [group for part in parts for group in part.param_groups]
        super().__init__(groups, {})
        self.param_groups = groups  # the very dictionaries that the parts read
        for part in self.parts:
            part.state = self.state

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for part in self.parts:
            part.step()


def muon(model: nn.Module, config: TrainingStage) -> torch.optim.Optimizer:
    """Muon for the matrices inside the blocks; AdamW for embeddings, the output matrix and vectors.

    Updates are scaled to the RMS of AdamW's (Liu et al. 2025, *Muon is Scalable*, eq. 4), so that `lr` and `weight_decay`
    found for AdamW fit; `muon_lr` sets another.
    """
    inside = _inside(model)
    outside = [p for p in model.parameters() if p.requires_grad and p not in inside]
    parts: list[torch.optim.Optimizer] = []
    # orthogonal updates of AdamW's RMS grow in spectral norm with the root of the width, which muP takes back
    root = math.sqrt(width_ratio(model))
    peak = (config.lr if config.muon_lr is None else config.muon_lr) / root
    if inside:
        groups: Groups = [{"params": [p for p in model.parameters() if p in inside], "peak": peak}]
        decay = config.weight_decay * root
        parts.append(Muon(groups, lr=peak, weight_decay=decay))
    if outside:
        parts.append(_adamw(model, outside, config))
    return MuonAdamW(*parts)


OPTIMIZERS: dict[str, Callable[[nn.Module, TrainingStage], torch.optim.Optimizer]] = {
    "adamw": adamw,
    "muon": muon,
}


def _inside(model: nn.Module) -> set[nn.Parameter]:
    """The trained matrices of the blocks."""
    named = model.named_parameters()
    return {p for name, p in named if p.requires_grad and p.dim() == 2 and ".layers." in f".{name}"}


def _embeddings(model: nn.Module) -> set[nn.Parameter]:
    return {
        p for name, p in model.named_parameters() if p.requires_grad and name.endswith("embed_tokens.weight")
    }


def width_ratio(model: nn.Module) -> float:
    """muP's ratio of widths; 1 where the model does not use it, and for adapters, whose rank does not grow with it."""
    whole = isinstance(model, Transformer) and all(p.requires_grad for p in model.parameters())
    return model.config.width_ratio if isinstance(model, Transformer) and whole else 1.0


def _by_layout(parameters: list[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Parameters that lie on the same ranks in the same way: one fused kernel takes only those together."""
    groups: dict[object, list[nn.Parameter]] = {}
    for parameter in parameters:
        where = parameter.device_mesh if is_dtensor(parameter) else None
        groups.setdefault(where, []).append(parameter)
    return list(groups.values())
