"""Next-token prediction: pre-training and supervised fine-tuning are the same loss on other data."""

from __future__ import annotations

from typing import Final

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
    """L = sum m_t (- logp_t + z_loss log^2 Z_t); the unit of weight is one target with loss_mask m_t = 1.

    Z_t is the softmax's denominator: `z_loss` keeps it near 1, so that logits do not drift (Chowdhery et al. 2022, PaLM, section
    5, with 1e-4). Wants `logp` (B, T), and `log_z` (B, T) where `z_loss` is not 0. The metric `loss` is the first term alone.
    """

    wants: frozenset[str] = frozenset({"logp"})
    unit: Final = "token"
    z_loss: float = 0.0

    def __init__(self, z_loss: float = 0.0) -> None:
        if z_loss:
            self.z_loss, self.wants = z_loss, frozenset({"logp", "log_z"})

    def weight(self, batch: Batch) -> Tensor:
        return batch["loss_mask"].sum()

    def __call__(self, out: Output, batch: Batch) -> Loss:
        assert out.logp is not None
        mask = batch["loss_mask"]
        total = -(out.logp.where(mask > 0, 0.0) * mask).sum()
        metrics = {"loss": (total.detach(), self.weight(batch))}
        if self.z_loss:
            assert out.log_z is not None
            squares = (out.log_z.where(mask > 0, 0.0).square() * mask).sum()
            total = total + self.z_loss * squares
            metrics["log_z_squared"] = (squares.detach(), self.weight(batch))
        return Loss(total, metrics)
