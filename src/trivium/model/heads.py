"""From hidden states to what an objective wants. Log-probabilities are made here and nowhere else in training."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK = 2**25
"""Logits held at once, in elements (float32: 128 MiB). Above that the rows are done in chunks that are recomputed backward."""


def _token_logp(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    logits = F.linear(hidden, weight).float()
    return -F.cross_entropy(logits, targets, reduction="none")


def log_probs(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Log-probability of each target: hidden (B, T, D), weight (V, D), targets (B, T) int64 -> (B, T) float32.

    The full (B, T, V) logits never exist at once when they would hold more than CHUNK elements.
    """
    flat, wanted = hidden.flatten(0, 1), targets.flatten()
    chunks = -(-flat.shape[0] * weight.shape[0] // CHUNK)
    if chunks <= 1:
        return _token_logp(flat, weight, wanted).view_as(targets)
    size = -(-flat.shape[0] // chunks)
    pieces = [
        checkpoint(_token_logp, part, weight, goal, use_reentrant=False)
        for part, goal in zip(torch.split(flat, size), torch.split(wanted, size), strict=True)
    ]
    return torch.cat(pieces).view_as(targets)


def _logp_and_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    logits = F.linear(hidden, weight).float()
    total = logits.logsumexp(-1)
    logp = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - total
    return torch.stack((logp, total - ((logits - total.unsqueeze(-1)).exp() * logits).sum(-1)))


def log_probs_and_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """As `log_probs`, and the entropy of the whole distribution at each place, in nats: two (B, T) float32."""
    flat, wanted = hidden.flatten(0, 1), targets.flatten()
    size = max(1, CHUNK // weight.shape[0])
    pieces = [
        checkpoint(_logp_and_entropy, part, weight, goal, use_reentrant=False)
        for part, goal in zip(torch.split(flat, size), torch.split(wanted, size), strict=True)
    ]
    both = torch.cat(pieces, dim=1)
    return both[0].view_as(targets), both[1].view_as(targets)
