"""Sums over a sequence, and the rows of a preference pair: what several objectives share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trivium.types import Batch, Output

IGNORE = -100


def shifted_log_probs(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """logits (B, T, V) and labels (B, T) -> log-probability of each next label (B, T-1), and its mask (B, T-1) bool.

    The convention of transformers and TRL: the logits at t predict the label at t + 1; labels of -100 do not count.
    """
    goal = labels[:, 1:]
    mask = goal != IGNORE
    logp = F.log_softmax(logits[:, :-1].to(torch.promote_types(logits.dtype, torch.float32)), dim=-1)
    return logp.gather(-1, goal.clamp_min(0).unsqueeze(-1)).squeeze(-1).where(mask, 0.0), mask


def sequence_log_probs(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-probability of each row's labelled tokens: logits (B, T, V), labels (B, T) int64, -100 ignored -> (B,) sums."""
    return shifted_log_probs(logits, labels)[0].sum(-1)


def row_log_probs(out: Output, batch: Batch) -> Tensor:
    """The same from the model's own output: (B, T) log-probs under loss_mask (B, T) -> (B,)."""
    assert out.logp is not None
    return out.logp.where(batch["loss_mask"] > 0, 0.0).sum(-1)


def pair_rows(batch: Batch) -> tuple[Tensor, Tensor]:
    """Row numbers of the chosen and of the rejected reply of every pair, (P,) each, in the same order of pairs.

    Rows may stand in any order. ValueError if a pair is not complete within the batch.
    """
    chosen = (batch["label"] == 1).nonzero().flatten()
    rejected = (batch["label"] == 0).nonzero().flatten()
    chosen = chosen[batch["pair"][chosen].argsort()]
    rejected = rejected[batch["pair"][rejected].argsort()]
    if not torch.equal(batch["pair"][chosen], batch["pair"][rejected]):
        raise ValueError("every pair needs exactly one chosen and one rejected row in the same micro-batch")
    return chosen, rejected


def valid_pairs(batch: Batch, chosen: Tensor, rejected: Tensor) -> Tensor:
    """(P,) float32: 1 where both replies have a token that counts; a pair that is all mask adds nothing."""
    counts = batch["loss_mask"].sum(-1)
    return ((counts[chosen] > 0) & (counts[rejected] > 0)).float()


def row_tokens(batch: Batch) -> Tensor:
    """Targets that count in each row, at least 1: (B,)."""
    return batch["loss_mask"].sum(-1).clamp_min(1)


def last_token(batch: Batch) -> Tensor:
    """Place of each row's last counted target in `tokens`: (B,) int64. A target stands one to the right of its loss_mask."""
    mask = batch["loss_mask"] > 0
    places = torch.arange(mask.shape[1], device=mask.device)
    return ((places + 1) * mask).amax(-1).clamp_max(mask.shape[1] - 1)
