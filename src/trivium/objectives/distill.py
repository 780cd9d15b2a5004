"""Knowledge distillation on logits (Hinton et al. 2015; Agarwal et al. 2024 for reverse KL, JS and on-policy replies)."""

from __future__ import annotations

import math
from typing import Final, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from trivium.types import Batch, Loss, Output

Divergence = Literal["forward", "reverse", "js"]


def distill_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    divergence: Divergence = "forward",
    temperature: float = 1.0,
    mix: float = 0.5,
) -> Tensor:
    """Divergence of the next-token distributions at each place, in nats: two (..., V) logits -> (...).

    forward  KL(p_teacher || p_student)           Hinton et al. 2015, without its factor temperature^2
    reverse  KL(p_student || p_teacher)           Gu et al. 2024 (MiniLLM), eq. 1
    js       b KL(p_teacher || m) + (1 - b) KL(p_student || m),  m = b p_teacher + (1 - b) p_student,  b = `mix`
                                                  Agarwal et al. 2024 (GKD), eq. 1
    """
    ours = F.log_softmax(student / temperature, dim=-1)
    theirs = F.log_softmax(teacher / temperature, dim=-1)
    if divergence == "forward":
        return _kl(theirs, ours)
    if divergence == "reverse":
        return _kl(ours, theirs)
    both = torch.logaddexp(ours + math.log1p(-mix), theirs + math.log(mix))
    return mix * _kl(theirs, both) + (1 - mix) * _kl(ours, both)


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) from log-probabilities (..., V); a token of probability 0 under p adds nothing."""
    weight = p.exp()
    return torch.where(weight > 0, weight * (p - q), 0.0).sum(-1)


class Distill:
    """Sum over tokens of `share` x `distill_loss` + (1 - share) x -log p(target); the unit of weight is one token.

    Wants `logits` and `logp`; reads `teacher_logits` (B, T, V), which `batches.teacher` computes for
    the V tokens that there are: logits of the student beyond those belong to padding of its embeddings and have no part.
    """

    wants = frozenset({"logits", "logp"})
    unit: Final = "token"

    def __init__(self, divergence: Divergence, temperature: float, mix: float, share: float = 1.0) -> None:
        self.divergence, self.temperature, self.mix, self.share = divergence, temperature, mix, share

    def weight(self, batch: Batch) -> Tensor:
        return batch["loss_mask"].sum()

    def __call__(self, out: Output, batch: Batch) -> Loss:
        assert out.logits is not None and out.logp is not None
        on = batch["loss_mask"] > 0
        weights = batch["loss_mask"][on]
        teacher = batch["teacher_logits"][on]
        apart = distill_loss(
            out.logits[on][..., : teacher.shape[-1]],
            teacher,
            divergence=self.divergence,
            temperature=self.temperature,
            mix=self.mix,
        )
        return self._mixed((apart * weights).sum(), -(out.logp[on] * weights).sum(), batch)

    def _mixed(self, apart: Tensor, likelihood: Tensor, batch: Batch) -> Loss:
        """The two sums, each by its share."""
        total = self.share * apart + (1 - self.share) * likelihood
        count = self.weight(batch)
        metrics = {
            "loss": (total.detach(), count),
            "divergence": (apart.detach(), count),
            "next_token": (likelihood.detach(), count),
        }
        return Loss(total, metrics)
