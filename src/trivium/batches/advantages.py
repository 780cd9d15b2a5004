"""From rewards to advantages: what a rollout is worth, token by token."""

from __future__ import annotations

import torch
from torch import Tensor

from trivium.train.distributed import global_sum


def group_advantages(rewards: Tensor, group: int, *, scale: bool) -> Tensor:
    """How much better each reply is than the others to its prompt: rewards (N,), groups side by side -> (N,).

    A = (r - mean) / (std + 1e-4)      Shao et al. 2024, section 4.1.2; without the division, Liu et al. 2025 (Dr. GRPO)
    """
    grouped = rewards.view(-1, group)
    centred = grouped - grouped.mean(-1, keepdim=True)
    if scale:
        centred = centred / (grouped.std(-1, keepdim=True) + 1e-4)
    return centred.flatten()


def whiten(advantage: Tensor, mask: Tensor) -> Tensor:
    """Mean 0 and deviation 1 over all places with mask 1, on all ranks together: (B, T) -> (B, T), 0 elsewhere."""
    count = global_sum(mask.sum()).clamp_min(1)
    mean = global_sum((advantage * mask).sum()) / count
    centred = (advantage - mean) * mask
    return centred * torch.rsqrt(global_sum((centred**2).sum()) / count + 1e-8)


def token_rewards(score: Tensor, old_logp: Tensor, ref_logp: Tensor, mask: Tensor, kl: float) -> Tensor:
    """The reward of each token: score (B,), the others (B, T) -> (B, T).

    r_t = - kl (log pi_old - log pi_ref) + score at the last token      Ouyang et al. 2022, section 3.4; Ziegler et al. 2019
    """
    reward = -kl * (old_logp - ref_logp) * mask
    places = torch.arange(mask.shape[1], device=mask.device)
    last = (places * mask).amax(-1).long()
    reward[torch.arange(len(score)), last] += score
    return reward * mask
