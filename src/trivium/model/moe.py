"""Mixture of experts: each token goes to the few experts that its router scores highest; none is dropped.

Load is balanced without an auxiliary loss (Wang et al. 2024; DeepSeek-V3, arXiv 2412.19437, section 2.1.2): a bias per expert is
added to the scores for choosing only, and after every step moves towards equal load. Names are those of GLM-4-MoE and
Qwen3-MoE files: `mlp.gate`, `mlp.experts.N`, `mlp.shared_experts`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses import FakeTensor

from trivium.model.config import Experts
from trivium.model.swiglu import SwiGLU


class Exchange(Protocol):
    """Ranks that share one set of experts (`train.parallel.experts`)."""

    def __call__(self, rows: Tensor, counts: Tensor, compute: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Rows (N, D) sorted by expert, `counts` (E,) of them for each -> what their experts make of them, in that order.

        `compute` does the same for rows that all belong to this rank's experts.
        """


def tally(picked: Tensor, experts: int) -> Tensor:
    """How many of the choices `picked` (N,) fell on each expert: (E,) int64."""
    if isinstance(picked, FakeTensor):  # a dry run: nothing has numbers
        return picked.new_zeros(experts)
    return torch.bincount(picked, minlength=experts)


def sizes(counts: Tensor, rows: int) -> list[int]:
    """`counts` (E,) of `rows` rows as numbers; equal shares where they have none (a dry run)."""
    if not isinstance(counts, FakeTensor):
        listed: list[int] = counts.tolist()
        return listed
    each, more = divmod(rows, len(counts))
    return [each + (place < more) for place in range(len(counts))]


class Router(nn.Module):
    """Scores of D-wide tokens for E experts, in float32."""

    e_score_correction_bias: Tensor

    def __init__(self, dim: int, experts: Experts) -> None:
        super().__init__()
        self.experts = experts
        self.weight = nn.Parameter(torch.zeros(experts.count, dim))
        self.bias = nn.Parameter(torch.zeros(experts.count)) if experts.bias else None
        if not experts.softmax:
            self.register_buffer("e_score_correction_bias", torch.zeros(experts.count))
        self.load: Tensor | None = None  # tokens that came to each expert since the last step, (E,) int64

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (N, D) -> the chosen experts (N, top_k) int64 and their weights (N, top_k) float32."""
        experts = self.experts
        with torch.autocast(x.device.type, enabled=False):
            bias = None if self.bias is None else self.bias.float()
            logits = F.linear(x.float(), self.weight.float(), bias)
        if experts.softmax:
            scores = logits.softmax(-1)
            chosen = scores.topk(experts.top_k, dim=-1).indices
        else:
            scores = logits.sigmoid()
            wanted = self._within_groups(scores + self.e_score_correction_bias)
            chosen = wanted.topk(experts.top_k, dim=-1).indices
        weights = scores.gather(1, chosen)
        if experts.normalise:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return chosen, weights * experts.scale

    def _within_groups(self, scores: Tensor) -> Tensor:
        """Scores (N, E), -inf outside the `top_groups` groups whose two best experts have the highest sum."""
        groups, kept = self.experts.groups, self.experts.top_groups
        if groups == kept:
            return scores
        grouped = scores.reshape(*scores.shape[:-1], groups, -1)
        best = grouped.topk(2, dim=-1).values.sum(-1).topk(kept, dim=-1).indices
        out = torch.ones(grouped.shape[:2], dtype=torch.bool, device=scores.device).scatter(1, best, False)
        return grouped.masked_fill(out[..., None], -torch.inf).flatten(1)


class MixtureOfExperts(nn.Module):
    def __init__(self, dim: int, experts: Experts) -> None:
        super().__init__()
        self.top_k = experts.top_k
        self.gate = Router(dim, experts)
        self.experts = nn.ModuleList(
            SwiGLU(dim, experts.hidden, experts.bias, clamp=experts.clamp) for _ in range(experts.count)
        )
        self.held = range(
            experts.count
        )  # whose weights are on this rank: all, unless `exchange` brings rows to others
        self.exchange: Exchange | None = None
        self.has_shared = experts.shared > 0
        if self.has_shared:
            self.shared_experts = SwiGLU(dim, experts.shared * experts.hidden)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, D) -> (B, T, D)."""
        flat = x.reshape(-1, x.shape[-1])
        chosen, weights = self.gate(flat)
        out: Tensor = self.routed(flat, chosen, weights).view_as(x)
        if self.has_shared:
            out = out + self.shared_experts(x)
        return out

    def routed(self, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """Tokens sorted by expert, so that each does one product: x (N, D), chosen and weights (N, top_k) -> (N, D).

        Not to be compiled (`uncompiled`): the sizes of the groups are data.
        """
        picked = chosen.flatten()
        order = picked.argsort(stable=True)
        counts = tally(picked, len(self.experts))
        if self.training and torch.is_grad_enabled():
            self.gate.load = counts if self.gate.load is None else self.gate.load + counts
        token = order // self.top_k
        rows = x[token]
        made = (
            self.computed(rows, counts)
            if self.exchange is None
            else self.exchange(rows, counts, self.computed)
        )
        shares = weights.flatten()[order].unsqueeze(-1)
        return torch.zeros_like(x).index_add(0, token, (made * shares).to(x.dtype))

    def computed(self, rows: Tensor, counts: Tensor) -> Tensor:
        """Each held expert on its own of the sorted rows (N, D); counts (number held,) says how many those are -> (N, D)."""
        groups = torch.split(rows, sizes(counts, len(rows)))
        # experts without tokens compute too: every rank must have every gradient
        return torch.cat([self.experts[i](group) for i, group in zip(self.held, groups, strict=True)])


def uncompiled(model: nn.Module) -> None:
    """Leaves out of a compilation what cannot be compiled. A decorator would load the compiler into every process: a second."""
    for module in model.modules():
        if isinstance(module, MixtureOfExperts):
            vars(module)["routed"] = torch.compiler.disable(module.routed)  # type: ignore[no-untyped-call]


def forget_load(model: nn.Module) -> None:
    """As if no token had come since the last step."""
    for module in model.modules():
        if isinstance(module, Router):
            module.load = None


@torch.no_grad()
def balance(model: nn.Module, sum_ranks: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Moves every expert's bias after a step: up by the recipe's `balance` if it had less than its share, else down.

    Returns {"expert_load": (2,)}, a sum and its weight: the busiest expert's load over the mean one, averaged over layers; 1
    is perfect balance. Empty for a model without experts. `sum_ranks` adds a tensor over all ranks with other tokens.
    """
    routers = [module for module in model.modules() if isinstance(module, Router)]
    found: list[Tensor] = []
    for router in routers:
        if router.load is None:
            continue
        load = sum_ranks(router.load.float())
        router.load = None
        step = router.experts.balance
        if step and not router.experts.softmax and router.weight.requires_grad:
            router.e_score_correction_bias += step * torch.sign(load.mean() - load)
        found.append(load.max() / load.mean().clamp_min(1e-9))
    if not found:
        return {}
    mean = torch.stack(found).mean()
    return {"expert_load": torch.stack([mean, torch.ones_like(mean)])}
