"""How the next token is drawn from the logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn. Temperature 0 takes the likeliest one and is deterministic; top_k 0 keeps all ids."""

    temperature: float = 0.0
    top_p: float = 1.0
    max_new_tokens: int = 96
    seed: int = 0
    top_k: int = 0
    min_p: float = 0.0


def distribution(logits: Tensor, sampling: Sampling) -> Tensor:
    """Probabilities (B, V) float32 after temperature (> 0), top_k, top_p and min_p, in that order; rows need not sum to 1.

    top_p keeps the smallest set of ids with that much probability (Holtzman et al. 2020), min_p those with at least that
    share of the likeliest id's probability (Nguyen et al. 2024).
    """
    logits = logits.float() / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        least = logits.topk(sampling.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    probabilities = F.softmax(logits, dim=-1)
    if sampling.top_p < 1:
        ordered, order = probabilities.sort(dim=-1, descending=True)
        ordered[ordered.cumsum(-1) - ordered >= sampling.top_p] = 0
        probabilities = torch.zeros_like(probabilities).scatter_(-1, order, ordered)
    if sampling.min_p > 0:
        least = sampling.min_p * probabilities.amax(-1, keepdim=True)
        probabilities = probabilities.masked_fill(probabilities < least, 0.0)
    return probabilities


def pick(logits: Tensor, sampling: Sampling, uniform: Tensor) -> Tensor:
    """Next ids (B,) by inverse CDF: logits (B, V), uniform (B,) float64 in [0, 1), one number for each row."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    cdf = distribution(logits, sampling).double().cumsum(-1)
    found = torch.searchsorted(cdf, uniform[:, None] * cdf[:, -1:], right=True)
    return found.squeeze(-1).clamp_max(logits.shape[-1] - 1)
