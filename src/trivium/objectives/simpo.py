"""Simple preference optimisation (Meng et al. 2024): the mean log-probability per token is the reward, without a reference."""

from __future__ import annotations

from typing import Final

import torch.nn.functional as F
from torch import Tensor

from trivium.objectives.sequence import pair_rows, row_log_probs, row_tokens, valid_pairs
from trivium.types import Batch, Loss, Output


def simpo_loss(chosen: Tensor, rejected: Tensor, beta: float, gamma: float) -> Tensor:
    """Loss of each pair, from *mean* log-probabilities per token: two (P,) -> (P,).

        L = - log sigmoid( beta log pi(y_w|x) / |y_w| - beta log pi(y_l|x) / |y_l| - gamma )

    Meng et al. 2024, eq. 6.
    """
    return -F.logsigmoid(beta * (chosen - rejected) - gamma)


class Simpo:
    """Sum of `simpo_loss` over the batch's pairs; the unit of weight is one pair. Wants `logp`."""

    wants = frozenset({"logp"})
    unit: Final = "pair"

    def __init__(self, beta: float, gamma: float) -> None:
        self.beta, self.gamma = beta, gamma

    def weight(self, batch: Batch) -> Tensor:
        return valid_pairs(batch, *pair_rows(batch)).sum()

    def __call__(self, out: Output, batch: Batch) -> Loss:
        rows = pair_rows(batch)
        valid = valid_pairs(batch, *rows)
        mean = row_log_probs(out, batch) / row_tokens(batch)
        chosen, rejected = mean[rows[0]], mean[rows[1]]
        total = (simpo_loss(chosen, rejected, self.beta, self.gamma) * valid).sum()
        margin, count = (chosen - rejected).detach(), valid.sum()
        metrics = {
            "loss": (total.detach(), count),
            "margin": ((self.beta * margin * valid).sum(), count),
            "accuracy": (((margin > 0).float() * valid).sum(), count),
        }
        return Loss(total, metrics)
