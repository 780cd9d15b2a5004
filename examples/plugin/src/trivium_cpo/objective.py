"""Contrastive preference optimisation (Xu et al. 2024, eqs. 3-5)."""

from __future__ import annotations

from typing import Final

import torch.nn.functional as F
from torch import Tensor

from trivium.objectives.sequence import pair_rows, row_log_probs, row_tokens, valid_pairs
from trivium.types import Batch, Loss, Output


class Cpo:
    """Sum over the batch's pairs of - log sigmoid(beta (log pi(y_w|x) - log pi(y_l|x))) - log pi(y_w|x) / |y_w|.

    The unit of weight is one pair. Wants `logp`.
    """

    wants = frozenset({"logp"})
    unit: Final = "pair"

    def __init__(self, beta: float) -> None:
        self.beta = beta

    def weight(self, batch: Batch) -> Tensor:
        return valid_pairs(batch, *pair_rows(batch)).sum()

    def __call__(self, out: Output, batch: Batch) -> Loss:
        chosen, rejected = pair_rows(batch)
        valid = valid_pairs(batch, chosen, rejected)
        logp, tokens = row_log_probs(out, batch), row_tokens(batch)
        preference = -F.logsigmoid(self.beta * (logp[chosen] - logp[rejected]))
        total = ((preference - logp[chosen] / tokens[chosen]) * valid).sum()
        return Loss(total, {"loss": (total.detach(), valid.sum())})
