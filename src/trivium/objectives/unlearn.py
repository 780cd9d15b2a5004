"""Unlearning (Jang et al. 2023; Zhang et al. 2024): some rows are made unlikely, and others beside them kept."""

from __future__ import annotations

from typing import Final, Literal

import torch.nn.functional as F
from torch import Tensor

from trivium.objectives.sequence import pair_rows, row_log_probs, row_tokens, valid_pairs
from trivium.types import Batch, Loss, Output

Method = Literal["npo", "gradient_ascent"]


def npo_loss(policy: Tensor, reference: Tensor, beta: float) -> Tensor:
    """Loss of each row that is forgotten, from log-probabilities of whole rows: two (P,) -> (P,).

        L_NPO = - 2 / beta  log sigmoid( - beta log( pi(y) / pi_ref(y) ) )

    Zhang et al. 2024, eq. 3: the half of DPO that is about the rejected reply. Its gradient is that of gradient ascent on the
    row's log-probability, times 2 pi^beta / (pi^beta + pi_ref^beta) (eq. 4): a row that is forgotten is left alone. With policy =
    reference it is 2 ln 2 / beta; as beta goes to 0 it is gradient ascent.
    """
    return -F.logsigmoid(-beta * (policy - reference)) * (2 / beta)


class Unlearn:
    """Sum over pairs of a row to keep (label 1) and a row to forget (label 0); the unit of weight is one pair. Wants `logp`; npo
    reads `ref_logp` (B,), of the rows to forget.

        npo              L = L_NPO(y_f)             - retain log pi(y_k) / |y_k|
        gradient_ascent  L = log pi(y_f) / |y_f|    - retain log pi(y_k) / |y_k|

    Gradient ascent on the forgotten rows' own loss is Jang et al. 2023, eq. 1 (there a sum over rows of one length); the second
    term is the retain set's next-token loss (Zhang et al. 2024, section 2.1: GA + RT and NPO + RT).
    """

    wants = frozenset({"logp"})
    unit: Final = "pair"

    def __init__(self, method: Method, beta: float, retain: float) -> None:
        self.method, self.beta, self.retain = method, beta, retain

    def weight(self, batch: Batch) -> Tensor:
        return valid_pairs(batch, *pair_rows(batch)).sum()

    def __call__(self, out: Output, batch: Batch) -> Loss:
        keep, forget = pair_rows(batch)
        valid = valid_pairs(batch, keep, forget)
        logp = row_log_probs(out, batch)
        mean = logp / row_tokens(batch)
        npo = self.method == "npo"
        forgotten = npo_loss(logp[forget], batch["ref_logp"][forget], self.beta) if npo else mean[forget]
        total = ((forgotten - self.retain * mean[keep]) * valid).sum()
        count, known = valid.sum(), mean.detach()
        metrics = {
            "loss": (total.detach(), count),
            "forget_loss": (-(known[forget] * valid).sum(), count),
            "retain_loss": (-(known[keep] * valid).sum(), count),
        }
        return Loss(total, metrics)
