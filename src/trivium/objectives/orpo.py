"""Odds-ratio preference optimisation (Hong et al. 2024): fine-tuning and alignment in one loss, without a reference."""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from trivium.objectives.sequence import pair_rows, row_log_probs, valid_pairs
from trivium.types import Batch, Loss, Output


def orpo_loss(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """Loss of each pair, from *mean* log-probabilities per token: two (P,), both below 0 -> (P,).

        L = - log P(y_w|x) - beta log sigmoid( log odds(y_w|x) - log odds(y_l|x) ),   odds = P / (1 - P)

    Hong et al. 2024, eqs. 5-7, with P the geometric mean of the token probabilities.
    """
    return -chosen - beta * F.logsigmoid(_log_odds(chosen) - _log_odds(rejected))


def _log_odds(mean_logp: Tensor) -> Tensor:
    # log(1 - e^x) stays finite for a probability that rounds to 1
    return mean_logp - torch.log(-torch.expm1(mean_logp.clamp_max(-1e-6)))


class Orpo:
    """Sum of `orpo_loss` over the batch's pairs; the unit of weight is one pair. Wants `logp`."""

    wants = frozenset({"logp"})
    unit: Final = "pair"

    def __init__(self, beta: float) -> None:
        self.beta = beta

    def weight(self, batch: Batch) -> Tensor:
        return valid_pairs(batch, *pair_rows(batch)).sum()

    def __call__(self, out: Output, batch: Batch) -> Loss:
        rows = pair_rows(batch)
        valid = valid_pairs(batch, *rows)
        mean = row_log_probs(out, batch) / batch["loss_mask"].sum(-1).clamp_min(1)
        chosen, rejected = mean[rows[0]], mean[rows[1]]
        total = (orpo_loss(chosen, rejected, self.beta) * valid).sum()
        count = valid.sum()
        accuracy = ((chosen > rejected).float() * valid).sum()
        return Loss(total, {"loss": (total.detach(), count), "accuracy": (accuracy, count)})
