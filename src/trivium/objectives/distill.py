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


def coarse(logp: Tensor, ids: Tensor) -> Tensor:
    """log-probabilities (..., V) as those of `ids` (..., k), and last that of all other tokens together: (..., k + 1).

    A divergence of two such rows is at most that of the whole ones (data processing inequality), and is it where k is V - 1.
    """
    rest = logp.scatter(-1, ids, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat((logp.gather(-1, ids), rest), -1)


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) from log-probabilities (..., V); a token of probability 0 under p adds nothing."""
    weight = p.exp()
    some = weight > 0  # chosen before the product: a gradient through infinity times nothing is none
    return (weight * torch.where(some, p - q, 0.0)).sum(-1)


class Distill:
    """Sum over tokens of `share` x `distill_loss` + (1 - share) x -log p(target); the unit of weight is one token.

    Wants `logits` and `logp`; reads `teacher_logits` (B, T, V), which `batches.teacher` computes for
    the V tokens that there are: logits of the student beyond those belong to padding of its embeddings and have no part. Or reads
    `teacher_top` (B, T, k) with `teacher_top_logp` (B, T, k + 1), softened already, and V in `teacher_vocab` (B,): see `coarse`.
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
        if "teacher_top" in batch:
            logits = out.logits[on][..., : int(batch["teacher_vocab"][0])]
            student = coarse(F.log_softmax(logits / self.temperature, -1), batch["teacher_top"][on])
            teacher, temperature = batch["teacher_top_logp"][on], 1.0
        else:
            teacher, temperature = batch["teacher_logits"][on], self.temperature
            student = out.logits[on][..., : teacher.shape[-1]]
        apart = distill_loss(
            student, teacher, divergence=self.divergence, temperature=temperature, mix=self.mix
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
