"""Kahneman-Tversky optimisation (Ethayarajh et al. 2024): single replies, each marked desirable or not."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from trivium.objectives.sequence import row_log_probs
from trivium.types import Batch, Loss, Output


def kto_loss(
    policy: Tensor,
    reference: Tensor,
    label: Tensor,
    kl: Tensor,
    beta: float,
    *,
    desirable: float = 1.0,
    undesirable: float = 1.0,
) -> Tensor:
    """Loss of each reply, from log-probabilities of whole replies: policy, reference, label and kl (B,) -> (B,).

        L = w_D [1 - sigmoid( beta (r - z) )]  for a desirable reply,     r = log pi(y|x) - log pi_ref(y|x)
            w_U [1 - sigmoid( beta (z - r) )]  for an undesirable one

    Ethayarajh et al. 2024, eqs. 7 and 8; z = `kl`, the policy's distance from the reference, is estimated on replies that belong
    to other prompts (`batches.feedback`), is never below 0 and carries no gradient.
    """
    log_ratio = policy - reference
    sign = torch.where(label == 1, 1.0, -1.0).to(log_ratio.dtype)
    weight = torch.where(label == 1, desirable, undesirable).to(log_ratio.dtype)
    return weight * (1 - torch.sigmoid(beta * sign * (log_ratio - kl)))


class Kto:
    """Sum of `kto_loss` over the batch's replies; the unit of weight is one reply. Wants `logp`.

    Reads `ref_logp`, `kl` and `label`, (B,) each.
    """

    wants = frozenset({"logp"})
    unit: Final = "reply"

    def __init__(self, beta: float, desirable: float = 1.0, undesirable: float = 1.0) -> None:
        self.beta, self.desirable, self.undesirable = beta, desirable, undesirable

    def weight(self, batch: Batch) -> Tensor:
        return (batch["loss_mask"].sum(-1) > 0).float().sum()

    def __call__(self, out: Output, batch: Batch) -> Loss:
        valid = (batch["loss_mask"].sum(-1) > 0).float()
        logp, reference, label = row_log_probs(out, batch), batch["ref_logp"], batch["label"]
        each = kto_loss(
            logp,
            reference,
            label,
            batch["kl"],
            self.beta,
            desirable=self.desirable,
            undesirable=self.undesirable,
        )
        total, count = (each * valid).sum(), valid.sum()
        reward = self.beta * (logp - reference).detach()
        good, bad = valid * (label == 1), valid * (label == 0)
        metrics = {
            "loss": (total.detach(), count),
            "kl": ((batch["kl"] * valid).sum(), count),
            "reward_desirable": ((reward * good).sum(), good.sum()),
            "reward_undesirable": ((reward * bad).sum(), bad.sum()),
        }
        return Loss(total, metrics)
