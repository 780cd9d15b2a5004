"""Next-token prediction: pre-training and supervised fine-tuning are the same loss on other data."""

from __future__ import annotations

from torch import Tensor

from trivium.objectives.sequence import shifted_log_probs
from trivium.types import Batch, Loss, Output


def next_token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of the next token, in nats: logits (B, T, V), labels (B, T) int64 -> ().

        L = - sum_t m_t log p(y_{t+1} | y_{<=t}) / sum_t m_t

    The logits at t are held against the label at t + 1; labels of -100 are ignored; with no label left the loss is 0.
    Radford et al. 2018, eq. 1.
    """
    logp, mask = shifted_log_probs(logits, labels)
    return -logp.sum() / mask.sum().clamp_min(1)


class NextToken:
    """L = - sum m_t logp_t; the unit of weight is one target with loss_mask 1. Wants `logp` (B, T)."""

    wants = frozenset({"logp"})

    def weight(self, batch: Batch) -> Tensor:
        return batch["loss_mask"].sum()

    def __call__(self, out: Output, batch: Batch) -> Loss:
        assert out.logp is not None
        total = -out.logp.where(batch["loss_mask"] > 0, 0.0).sum()
        return Loss(total, {"loss": (total.detach(), self.weight(batch))})
