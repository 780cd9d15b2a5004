"""Distillation between models whose tokenizers differ: Universal Logit Distillation (Boizard et al. 2024, arXiv 2402.12030) over
spans of text on which both agree, and with the tokens that both have compared by name (GOLD: as TRL computes it)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from trivium.objectives.distill import Distill, Divergence
from trivium.types import Batch, Loss, Output


class Merged(NamedTuple):
    """What a model says of G spans, in the order of rows and places."""

    logp: (
        Tensor  # (G, V): log-probability of the span's first pieces and then each token in place of its last
    )
    last: Tensor  # (B, T) bool: where the last piece of each span is predicted
    weight: Tensor  # (G,): the loss_mask of its pieces, summed


def merged(logits: Tensor, targets: Tensor, span: Tensor, mask: Tensor, temperature: float) -> Merged:
    """The pieces of each span as one draw: p(x_1) ... p(x_(n-1)) p(. | x_1 ... x_(n-1)), by the chain rule.

    logits (B, T, V); targets and mask (B, T); span (B, T): its number, above 0, at each place whose target belongs to one.
    """
    on = (mask > 0) & (span > 0)
    rows = torch.arange(len(span), device=span.device)[:, None].expand_as(span)[on]
    every = (logits[on] / temperature).log_softmax(-1)
    drawn = every.gather(-1, targets[on][:, None]).squeeze(-1)
    _, group, sizes = torch.unique_consecutive(
        torch.stack((rows, span[on])), dim=1, return_inverse=True, return_counts=True
    )
    ends = sizes.cumsum(0) - 1
    before = drawn.new_zeros(len(sizes)).index_add(0, group, drawn) - drawn[ends]
    weight = mask.new_zeros(len(sizes)).index_add(0, group, mask[on])
    last = torch.zeros_like(on)
    last[tuple(index[ends] for index in on.nonzero(as_tuple=True))] = True
    return Merged(every[ends] + before[:, None], last, weight)


def uld_loss(
    student: Tensor,
    teacher: Tensor,
    rest: Tensor,
    *,
    divergence: Divergence = "js",
    mix: float = 0.5,
) -> Tensor:
    """Distance of two distributions over different tokens: student (G, V) and teacher (G, V) log-probabilities, the latter of the
    tokens that both have and -inf elsewhere; rest (G, K) probabilities of the teacher's other tokens, largest first -> (G,).

    With m of the teacher's m + K tokens shared: m / (m + K) x D(shared) + K / (m + K) x |sorted others - sorted others|_1.
    D is the divergence of `distill_loss`, with the difference of the masses added, as for all that does not sum to one.
    Nothing shared is the loss of Boizard et al.
    """
    shared = teacher.isfinite()
    theirs, ours = teacher.masked_fill(~shared, 0.0), student.masked_fill(~shared, 0.0)
    p, q = theirs.exp(), ours.exp()
    if divergence == "forward":
        terms = p * (theirs - ours) - p + q
    elif divergence == "reverse":
        terms = q * (ours - theirs) - q + p
    else:
        both = torch.logaddexp(ours + math.log1p(-mix), theirs + math.log(mix))
        terms = mix * p * (theirs - both) + (1 - mix) * q * (ours - both)
    matched = terms.masked_fill(~shared, 0.0).sum(-1)
    others = student.exp().masked_fill(shared, 0.0).sort(-1, descending=True).values
    count, apart = shared.sum(-1), rest.shape[-1]
    width = max(others.shape[-1], apart)
    others, rest = (torch.nn.functional.pad(x, (0, width - x.shape[-1])) for x in (others, rest))
    part = count / (count + apart).clamp_min(1)
    return part * matched + (1 - part) * (others - rest).abs().sum(-1)


class Uld(Distill):
    """Sum over spans of their tokens x (`share` x `uld_loss` + (1 - share) x -log p(target)); the unit of weight is one token.

    Reads `span` (B, T), and where the last piece of a span is predicted `teacher_logp` (B, T, V) and `teacher_rest` (B, T, K),
    which `batches.translated` computes. A token in no span has its likelihood only.
    """

    def __call__(self, out: Output, batch: Batch) -> Loss:
        assert out.logits is not None and out.logp is not None
        mask, teacher = batch["loss_mask"], batch["teacher_logp"]
        logits = out.logits[..., : teacher.shape[-1]]
        spans = merged(logits, batch["targets"], batch["span"], mask, self.temperature)
        apart = uld_loss(
            spans.logp,
            teacher[spans.last],
            batch["teacher_rest"][spans.last],
            divergence=self.divergence,
            mix=self.mix,
        )
        on = mask > 0
        loss = self._mixed((apart * spans.weight).sum(), -(out.logp[on] * mask[on]).sum(), batch)
        return Loss(loss.total, {**loss.metrics, "aligned": (spans.weight.sum(), self.weight(batch))})
