"""How the next token is drawn from a model's logits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class SamplingParams:
    """How the next token is drawn. Temperature 0 takes the likeliest one and is deterministic.

    The filters apply in this order, as in transformers: temperature, `top_k` (0: off), `top_p`, `min_p`.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    max_new_tokens: int = 96
    seed: int = 0
    top_k: int = 0
    min_p: float = 0.0
    stop_strings: tuple[str, ...] = ()
    """Texts that end a reply as soon as it holds one; the reply is cut before it."""


def distribution(logits: Tensor, sampling: SamplingParams) -> Tensor:
    """Probabilities that the next token is drawn from: logits (B, V) -> (B, V) float32. Temperature must be above 0.

    top_k keeps the k likeliest tokens; top_p the smallest set with that much probability (Holtzman et al. 2020); min_p those at
    least that share as likely as the likeliest one (Nguyen et al. 2024).
    """
    scores = logits.float() / sampling.temperature
    if 0 < sampling.top_k < scores.shape[-1]:
        least = scores.topk(sampling.top_k, dim=-1).values[..., -1:]
        scores = scores.masked_fill(scores < least, -math.inf)
    if sampling.top_p < 1:
        scores = _nucleus(scores, sampling.top_p)
    probabilities = F.softmax(scores, dim=-1)
    if sampling.min_p > 0:
        least = probabilities.amax(-1, keepdim=True) * sampling.min_p
        probabilities = probabilities.masked_fill(probabilities < least, 0)
        probabilities = probabilities / probabilities.sum(-1, keepdim=True)
    return probabilities


def _nucleus(scores: Tensor, top_p: float) -> Tensor:
    """Scores (B, V) with -inf outside of the smallest set of ids that has `top_p` of the probability.

    Only as many of the likeliest ids are sorted as have that much in every row: sorting a whole vocabulary takes longer than a
    step of a small model.
    """
    p, size = scores.softmax(-1), 128
    while True:
        size = min(size, scores.shape[-1])
        likely, order = p.topk(size, dim=-1)
        reached = likely.cumsum(-1)
        if size == scores.shape[-1] or bool((reached[:, -1] >= top_p).all()):
            break
        size *= 8
    kept = scores.gather(-1, order).masked_fill(reached - likely >= top_p, -math.inf)
    return torch.full_like(scores, -math.inf).scatter(-1, order, kept)


def draw(logits: Tensor, sampling: SamplingParams, uniform: Tensor) -> Tensor:
    """Next ids: logits (B, V) and one uniform number a row, (B,) in [0, 1) -> (B,) int64, by inverting the distribution.

    A row's choice depends on its own number alone, so it is the same whatever else is in the batch.
    """
    if sampling.temperature == 0:
        return logits.argmax(-1)
    cumulative = distribution(logits, sampling).double().cumsum(-1)
    wanted = uniform.double()[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, wanted, right=True).squeeze(-1).clamp_max(logits.shape[-1] - 1)


def log_prob(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-probability of each id under softmax(logits), unfiltered: (B, V), (B,) -> (B,) float32."""
    return -F.cross_entropy(logits.float(), ids, reduction="none")
