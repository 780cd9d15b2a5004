"""From hidden states to what an objective wants. Log-probabilities are made here and nowhere else in training."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK = 2**25
"""Logits held at once, in elements (float32: 128 MiB). Above that the rows are done in chunks that are recomputed backward."""


Cap = float | Tensor | None


def capped(logits: Tensor, cap: Cap) -> Tensor:
    """cap x tanh(logits / cap), which keeps them within +-cap (Gemma 2); None leaves them as they are."""
    return logits if cap is None else cap * torch.tanh(logits / cap)


def _token_loss(hidden: Tensor, weight: Tensor, targets: Tensor, cap: Cap) -> Tensor:
    logits = capped(F.linear(hidden, weight).float(), cap)
    return F.cross_entropy(logits, targets, reduction="none")


def _token_logp_and_z(hidden: Tensor, weight: Tensor, targets: Tensor, cap: Cap) -> Tensor:
    logits = capped(F.linear(hidden, weight).float(), cap)
    log_z = logits.logsumexp(-1)
    return torch.stack((logits.gather(-1, targets[:, None])[:, 0] - log_z, log_z), dim=-1)


def _token_logp_and_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, cap: Cap) -> Tensor:
    logp = capped(F.linear(hidden, weight).float(), cap).log_softmax(-1)
    return torch.stack((logp.gather(-1, targets[:, None])[:, 0], -(logp.exp() * logp).sum(-1)), dim=-1)


def log_probs(hidden: Tensor, weight: Tensor, targets: Tensor, cap: Cap = None) -> Tensor:
    """Log-probability of each target: hidden (B, T, D), weight (V, D), targets (B, T) int64 -> (B, T) float32.

    `cap` as in `capped`. The full (B, T, V) logits never exist at once when they would hold more than CHUNK elements.
    """
    return -_in_chunks(_token_loss, hidden, weight, targets, cap).view_as(
        targets
    )  # not a view: FSDP minds what it returns


def log_probs_and_z(
    hidden: Tensor, weight: Tensor, targets: Tensor, cap: Cap = None
) -> tuple[Tensor, Tensor]:
    """`log_probs`, and the log of the softmax's denominator at each place, (B, T) float32: one pass gives both."""
    both = _in_chunks(_token_logp_and_z, hidden, weight, targets, cap).view(*targets.shape, 2)
    return both[..., 0].clone(), both[..., 1].clone()  # views hold on to each other, and FSDP warns of them


def log_probs_and_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, cap: Cap = None
) -> tuple[Tensor, Tensor]:
    """`log_probs`, and the entropy of the whole distribution at each place, in nats, (B, T) float32."""
    both = _in_chunks(_token_logp_and_entropy, hidden, weight, targets, cap).view(*targets.shape, 2)
    return both[..., 0], both[..., 1]


def _in_chunks(
    compute: Callable[[Tensor, Tensor, Tensor, Cap], Tensor],
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    cap: Cap,
) -> Tensor:
    flat, wanted = hidden.flatten(0, 1), targets.flatten()
    chunks = -(-flat.shape[0] * weight.shape[0] // CHUNK)
    if chunks <= 1:
        return compute(flat, weight, wanted, cap)
    size = -(-flat.shape[0] // chunks)
    pieces = [
        checkpoint(compute, part, weight, goal, cap, use_reentrant=False)
        for part, goal in zip(torch.split(flat, size), torch.split(wanted, size), strict=True)
    ]
    return torch.cat(pieces)
