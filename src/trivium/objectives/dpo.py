"""Direct preference optimisation (Rafailov et al. 2023)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from trivium.objectives.sequence import pair_rows, row_log_probs, valid_pairs
from trivium.types import Batch, Loss, Output


def dpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float,
) -> Tensor:
    """Loss of each pair, from log-probabilities of whole replies: four (P,) -> (P,).

        L = - log sigmoid( beta [ (log pi(y_w|x) - log pi_ref(y_w|x)) - (log pi(y_l|x) - log pi_ref(y_l|x)) ] )

    Rafailov et al. 2023, eq. 7. With policy = reference it is ln 2.
    """
    return -F.logsigmoid(
        beta * implicit_margin(policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    )


def implicit_margin(
    policy_chosen: Tensor, policy_rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor
) -> Tensor:
    """How much more than the reference the policy prefers the chosen reply, in nats: four (P,) -> (P,)."""
    return (policy_chosen - reference_chosen) - (policy_rejected - reference_rejected)


class Dpo:
    """Sum of `dpo_loss` over the batch's pairs; the unit of weight is one pair. Wants `logp`; reads `ref_logp` (B,).

    With `nll` the chosen reply's mean -log p per token is added, times that weight (Pang et al. 2024, eq. 2; Llama 3 does the
    same): DPO alone is content to make both replies unlikely, which garbles what a small model writes.

    The reference is frozen, so its log-probabilities are computed once (`batches.annotate`) and only one model is in memory.
    """

    wants = frozenset({"logp"})

    def __init__(self, beta: float, nll: float = 0.0) -> None:
        self.beta, self.nll = beta, nll

    def weight(self, batch: Batch) -> Tensor:
        return valid_pairs(batch, *pair_rows(batch)).sum()

    def __call__(self, out: Output, batch: Batch) -> Loss:
        chosen, rejected = pair_rows(batch)
        valid = valid_pairs(batch, chosen, rejected)
        logp, reference = row_log_probs(out, batch), batch["ref_logp"]
        rows = logp[chosen], logp[rejected], reference[chosen], reference[rejected]
        total = (dpo_loss(*rows, self.beta) * valid).sum()
        if self.nll:
            length = batch["loss_mask"].sum(-1)[chosen].clamp_min(1)
            total = total - self.nll * (logp[chosen] / length * valid).sum()
        margin = implicit_margin(*rows).detach()
        count = valid.sum()
        metrics = {
            "loss": (total.detach(), count),
            "margin": ((self.beta * margin * valid).sum(), count),
            "accuracy": (((margin > 0).float() * valid).sum(), count),
        }
        return Loss(total, metrics)
