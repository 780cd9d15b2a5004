"""Reward modelling (Bradley & Terry 1952; Ouyang et al. 2022): a scalar for a reply, learned from pairs."""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from trivium.objectives.sequence import last_token, pair_rows, valid_pairs
from trivium.types import Batch, Loss, Output


def reward_loss(
    chosen: Tensor, rejected: Tensor, *, margin: Tensor | float = 0.0, centring: float = 0.0
) -> Tensor:
    """Loss of each pair, from the rewards of its two replies: two (P,) -> (P,).

        L = - log sigmoid( r(x, y_w) - r(x, y_l) - m ) + c ( r(x, y_w) + r(x, y_l) )^2

    Ouyang et al. 2022, eq. 1; the margin m is Llama 2's (Touvron et al. 2023, eq. 2); the last term keeps rewards near 0, which
    Bradley-Terry leaves open (Eisenstein et al. 2023, section 3).
    """
    return -F.logsigmoid(chosen - rejected - margin) + centring * (chosen + rejected) ** 2


class Reward:
    """Sum of `reward_loss` over the batch's pairs; the unit of weight is one pair. Wants `values`.

    A reply's reward is the scalar head's number at its last token, where transformers' sequence classifiers read theirs.
    """

    wants = frozenset({"values"})
    unit: Final = "pair"

    def __init__(self, margin: float = 0.0, centring: float = 0.0) -> None:
        self.margin, self.centring = margin, centring

    def weight(self, batch: Batch) -> Tensor:
        return valid_pairs(batch, *pair_rows(batch)).sum()

    def __call__(self, out: Output, batch: Batch) -> Loss:
        assert out.values is not None
        chosen, rejected = pair_rows(batch)
        valid = valid_pairs(batch, chosen, rejected)
        score = out.values.gather(-1, last_token(batch)[:, None]).squeeze(-1)
        good, bad = score[chosen], score[rejected]
        per_pair = reward_loss(good, bad, margin=self.margin, centring=self.centring)
        total, count = torch.where(valid > 0, per_pair, 0.0).sum(), valid.sum()
        apart = (good - bad).detach()
        metrics = {
            "loss": (total.detach(), count),
            "accuracy": (((apart > 0).float() * valid).sum(), count),
            "margin": ((apart * valid).sum(), count),
            "reward": (((good + bad).detach() / 2 * valid).sum(), count),
        }
        return Loss(total, metrics)
