"""Proximal policy optimisation (Schulman et al. 2017) on generated replies, and generalised advantage estimation (2016)."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from trivium.types import Batch, Loss, Output


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Advantages and returns of replies: rewards, values and mask (B, T) -> two (B, T), 0 where the mask is 0.

        delta_t = r_t + gamma V_{t+1} - V_t,     A_t = delta_t + gamma lambda A_{t+1},     R_t = A_t + V_t

    Schulman et al. 2016, eqs. 11-16. Places with mask 0 are skipped over, and behind the last one the value is 0: a reply ends.
    """
    advantage = torch.zeros_like(values)
    after_value = after = torch.zeros_like(values[:, 0])
    for t in range(values.shape[1] - 1, -1, -1):
        here = mask[:, t] > 0
        delta = rewards[:, t] + gamma * after_value - values[:, t]
        now = delta + gamma * gae_lambda * after
        advantage[:, t] = torch.where(here, now, 0.0)
        after = torch.where(here, now, after)
        after_value = torch.where(here, values[:, t], after_value)
    return advantage, torch.where(mask > 0, advantage + values, 0.0)


def ppo_loss(
    logp: Tensor,
    old_logp: Tensor,
    advantage: Tensor,
    *,
    clip_epsilon: float,
    clip_epsilon_high: float | None = None,
) -> Tensor:
    """The clipped surrogate at each token, to be minimised: three tensors of one shape -> the same shape.

        L = - min( rho A, clip(rho, 1 - eps, 1 + eps_high) A ),     rho = exp(log pi - log pi_old)

    Schulman et al. 2017, eq. 7; `clip_epsilon_high` None means the same on both sides (Yu et al. 2025, DAPO, eq. 10 raises it).
    """
    ratio = torch.exp(logp - old_logp)
    bounded = ratio.clamp(
        1 - clip_epsilon, 1 + (clip_epsilon if clip_epsilon_high is None else clip_epsilon_high)
    )
    return -torch.minimum(ratio * advantage, bounded * advantage)


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, *, clip: float | None) -> Tensor:
    """Half the squared error of the critic at each place, clipped around its old values: tensors of one shape -> the same.

        L = 1/2 max( (V - R)^2, (V_old + clip(V - V_old, -eps, eps) - R)^2 )

    Schulman et al. 2016; the clip is that of the OpenAI baselines (Huang et al. 2022, detail 9).
    """
    plain = (values - returns) ** 2
    if clip is None:
        return 0.5 * plain
    near = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * torch.maximum(plain, (near - returns) ** 2)


class Ppo:
    """Clipped surrogate + `value_weight` x clipped value loss - `entropy_weight` x entropy; the unit of weight is one token.

    Wants `logp`, `values` and `entropy`; reads `old_logp`, `advantage`, `returns`, `old_values` and `correction`. What is paid
    for leaving the reference is in the rewards that the advantages were made of (`batches.online`).
    """

    wants = frozenset({"logp", "values", "entropy"})
    unit: Final = "token"

    def __init__(
        self, clip_epsilon: float, value_clip: float | None, value_weight: float, entropy_weight: float = 0.0
    ) -> None:
        self.clip_epsilon, self.value_clip = clip_epsilon, value_clip
        self.value_weight, self.entropy_weight = value_weight, entropy_weight

    def weight(self, batch: Batch) -> Tensor:
        return batch["loss_mask"].sum()

    def __call__(self, out: Output, batch: Batch) -> Loss:
        assert out.logp is not None and out.values is not None and out.entropy is not None
        on = batch["loss_mask"] > 0
        logp, values = out.logp[on], out.values[on]
        old, advantage = batch["old_logp"][on], batch["advantage"][on]
        surrogate = ppo_loss(logp, old, advantage, clip_epsilon=self.clip_epsilon) * batch["correction"][on]
        critic = value_loss(values, batch["old_values"][on], batch["returns"][on], clip=self.value_clip)
        entropy = out.entropy[on].sum()
        total = surrogate.sum() + self.value_weight * critic.sum() - self.entropy_weight * entropy
        return Loss(
            total,
            _metrics(total, logp, old, self.clip_epsilon, self.clip_epsilon, batch)
            | _critic(critic, entropy, batch),
        )


def _critic(critic: Tensor, entropy: Tensor, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
    count = batch["loss_mask"].sum()
    return {"value_loss": (critic.detach().sum(), count), "entropy": (entropy.detach(), count)}


def _metrics(
    total: Tensor, logp: Tensor, old: Tensor, low: float, high: float, batch: Batch
) -> dict[str, tuple[Tensor, Tensor]]:
    """What every policy gradient shows: how far the policy went since the rollout, and how often that was clipped."""
    count = batch["loss_mask"].sum()
    log_ratio = (logp - old).detach()
    outside = (log_ratio.exp() < 1 - low) | (log_ratio.exp() > 1 + high)
    return {
        "loss": (total.detach(), count),
        "step_kl": (((-log_ratio).exp() - 1 + log_ratio).sum() if len(log_ratio) else log_ratio.sum(), count),
        "clipped": (outside.float().sum(), count),
    }
