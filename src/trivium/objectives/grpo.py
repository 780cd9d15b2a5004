"""Group-relative policy optimisation (Shao et al. 2024) and its two repaired denominators: no critic, groups instead."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from trivium.objectives.ppo import _metrics, ppo_loss
from trivium.types import Batch, Loss, Output

Normalisation = Literal["grpo", "dapo", "dr_grpo"]


def grpo_loss(
    logp: Tensor,
    old_logp: Tensor,
    advantage: Tensor,
    ref_logp: Tensor | None = None,
    *,
    clip_epsilon: float = 0.2,
    clip_epsilon_high: float | None = None,
    beta: float = 0.0,
) -> Tensor:
    """Loss at each token: tensors of one shape -> the same shape.

        L = - min( rho A, clip(rho, 1 - eps, 1 + eps_high) A ) + beta ( exp(d) - d - 1 ),     d = log pi_ref - log pi

    Shao et al. 2024, eqs. 3 and 4 (the last term is Schulman's k3 estimate of the KL); `clip_epsilon_high` is DAPO's clip-higher.
    """
    loss = ppo_loss(logp, old_logp, advantage, clip_epsilon=clip_epsilon, clip_epsilon_high=clip_epsilon_high)
    if beta and ref_logp is not None:
        away = ref_logp - logp
        loss = loss + beta * (away.exp() - away - 1)
    return loss


class Grpo:
    """`grpo_loss` summed as the normalisation says. Wants `logp`; reads `old_logp`, `advantage`, `correction`, `ref_token_logp`.

    grpo     each reply's mean over its tokens; a unit of weight is one reply            Shao et al. 2024, eq. 3
    dapo     all tokens alike; a unit is one token                                       Yu et al. 2025, eq. 8
    dr_grpo  tokens over the longest length allowed; a unit is one reply of that length  Liu et al. 2025, eq. 4
    """

    def __init__(
        self,
        normalisation: Normalisation,
        longest: int,
        clip_epsilon: float = 0.2,
        clip_epsilon_high: float | None = None,
        beta: float = 0.0,
    ) -> None:
        self.normalisation, self.longest = normalisation, longest
        self.clip_epsilon, self.clip_epsilon_high, self.beta = clip_epsilon, clip_epsilon_high, beta
        self.wants = frozenset({"logp"})

    @property
    def unit(self) -> Literal["token", "reply"]:
        return "token" if self.normalisation == "dapo" else "reply"

    def weight(self, batch: Batch) -> Tensor:
        if self.unit == "token":
            return batch["loss_mask"].sum()
        return (batch["loss_mask"].sum(-1) > 0).float().sum()

    def __call__(self, out: Output, batch: Batch) -> Loss:
        assert out.logp is not None
        on = batch["loss_mask"] > 0
        logp, old = out.logp[on], batch["old_logp"][on]
        each = grpo_loss(
            logp,
            old,
            batch["advantage"][on],
            batch["ref_token_logp"][on] if self.beta else None,
            clip_epsilon=self.clip_epsilon,
            clip_epsilon_high=self.clip_epsilon_high,
            beta=self.beta,
        )
        total = (each * batch["correction"][on] * self._share(batch)[on]).sum()
        high = self.clip_epsilon if self.clip_epsilon_high is None else self.clip_epsilon_high
        metrics = _metrics(total, logp, old, self.clip_epsilon, high, batch)
        return Loss(total, metrics | {"loss": (total.detach(), self.weight(batch))})

    def _share(self, batch: Batch) -> Tensor:
        """What one token adds to its unit of weight: (B, T)."""
        mask = batch["loss_mask"]
        if self.normalisation == "dapo":
            return torch.ones_like(mask)
        if self.normalisation == "dr_grpo":
            return torch.full_like(mask, 1 / self.longest)
        return (1 / mask.sum(-1, keepdim=True).clamp_min(1)).expand_as(mask)
