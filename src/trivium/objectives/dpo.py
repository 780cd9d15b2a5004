"""Direct preference optimisation (Rafailov et al. 2023) and its variants, which differ in one function of the margin."""

from __future__ import annotations

from typing import Final, Literal

import torch.nn.functional as F
from torch import Tensor

from trivium.objectives.sequence import pair_rows, row_log_probs, row_tokens, valid_pairs
from trivium.types import Batch, Loss, Output

Variant = Literal["sigmoid", "ipo", "hinge"]


def dpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float,
    *,
    variant: Variant = "sigmoid",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Loss of each pair, from log-probabilities of whole replies: four (P,) -> (P,).

    With m = (log pi(y_w|x) - log pi_ref(y_w|x)) - (log pi(y_l|x) - log pi_ref(y_l|x)):

        sigmoid  - (1 - e) log sigmoid(beta m) - e log sigmoid(-beta m)     Rafailov et al. 2023, eq. 7; with the share
                                                                            e of flipped labels, Mitchell 2023, eq. 3
        ipo      (m - 1 / (2 beta))^2                                       Azar et al. 2023, eq. 17
        hinge    max(0, 1 - beta m)                                         Zhao et al. 2023 (SLiC-HF)

    With policy = reference the sigmoid's loss is ln 2. For `ipo` and for length-normalised DPO give means per token.
    """
    margin = implicit_margin(policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    if variant == "ipo":
        return (margin - 1 / (2 * beta)) ** 2
    if variant == "hinge":
        return F.relu(1 - beta * margin)
    flipped = -F.logsigmoid(-beta * margin) * label_smoothing if label_smoothing else 0.0
    return -F.logsigmoid(beta * margin) * (1 - label_smoothing) + flipped


def implicit_margin(
    policy_chosen: Tensor, policy_rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor
) -> Tensor:
    """How much more than the reference the policy prefers the chosen reply, in nats: four (P,) -> (P,)."""
    return (policy_chosen - reference_chosen) - (policy_rejected - reference_rejected)


class Dpo:
    """Sum of `dpo_loss` over the batch's pairs; the unit of weight is one pair. Wants `logp`; reads `ref_logp` (B,).

    With `nll` the chosen reply's mean -log p per token is added, times that weight (Pang et al. 2024, eq. 2; Llama 3 does the
    same): DPO alone is content to make both replies unlikely, which garbles what a small model writes. `length_normalised`
    takes log-probabilities per token instead of sums (Meng et al. 2024 found sums to reward length); `ipo` always does.

    The reference is frozen, so its log-probabilities are computed once (`batches.annotate`) and only one model is in memory.
    """

    wants = frozenset({"logp"})
    unit: Final = "pair"

    def __init__(
        self,
        beta: float,
        nll: float = 0.0,
        variant: Variant = "sigmoid",
        label_smoothing: float = 0.0,
        length_normalised: bool = False,
    ) -> None:
        self.beta, self.nll = beta, nll
        self.variant, self.label_smoothing = variant, label_smoothing
        self.per_token = length_normalised or variant == "ipo"

    def weight(self, batch: Batch) -> Tensor:
        return valid_pairs(batch, *pair_rows(batch)).sum()

    def __call__(self, out: Output, batch: Batch) -> Loss:
        chosen, rejected = pair_rows(batch)
        valid = valid_pairs(batch, chosen, rejected)
        logp, reference, length = row_log_probs(out, batch), batch["ref_logp"], row_tokens(batch)
        sums = logp
        if self.per_token:
            logp, reference = logp / length, reference / length
        rows = logp[chosen], logp[rejected], reference[chosen], reference[rejected]
        per_pair = dpo_loss(*rows, self.beta, variant=self.variant, label_smoothing=self.label_smoothing)
        total = (per_pair * valid).sum()
        if self.nll:
            total = total - self.nll * (sums[chosen] / length[chosen] * valid).sum()
        margin = implicit_margin(*rows).detach()
        count = valid.sum()
        metrics = {
            "loss": (total.detach(), count),
            "margin": ((self.beta * margin * valid).sum(), count),
            "accuracy": (((margin > 0).float() * valid).sum(), count),
        }
        return Loss(total, metrics)
