"""A smaller model beside the one that it was made from, token by token on held-out data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from trivium.deploy.rows import TokenRow
from trivium.errors import GateError
from trivium.model.transformer import Transformer
from trivium.recipe.deployment import SmallerStage
from trivium.text.chat import ChatTokenizer


class Comparison(NamedTuple):
    """On the scored tokens of held-out rows."""

    bits_per_byte: float
    bits_per_byte_before: float
    """Of the full model."""
    kl: float
    """Mean of KL(full || smaller) of the next token, in nats."""
    kl_p99: float
    """Its 99th percentile: what one token in a hundred exceeds."""
    top1_agreement: float
    """Share of tokens where both have the same likeliest one."""
    tokens: int

    @property
    def bits_per_byte_increase(self) -> float:
        return self.bits_per_byte - self.bits_per_byte_before

    @property
    def of_full(self) -> dict[str, float]:
        """What there is to say of the full model."""
        return {"bits_per_byte": self.bits_per_byte_before}

    def as_dict(self) -> dict[str, float]:
        return {**self._asdict(), "bits_per_byte_increase": self.bits_per_byte_increase}


def broken(config: SmallerStage, comparisons: Mapping[str, Comparison]) -> list[str]:
    """Every bound of the stage that does not hold, NaN included, in words."""
    bounds = {
        "kl": ("max_kl", config.max_kl),
        "bits_per_byte_increase": ("max_bits_per_byte_increase", config.max_bits_per_byte_increase),
    }
    return [
        f"{kind}: {name} is {value:.4g}, `{field}` is {bound:g}"
        for kind, comparison in comparisons.items()
        for name, (field, bound) in bounds.items()
        if bound is not None and not (value := comparison.as_dict()[name]) <= bound
    ]


def check(config: SmallerStage, comparisons: Mapping[str, Comparison]) -> None:
    """GateError naming every bound of the stage that does not hold."""
    if found := broken(config, comparisons):
        raise GateError(
            f"{config.model!r} loses too much: " + "; ".join(found),
            fix="take a wider type, or move the bound and say why",
        )


@torch.no_grad()
def compare(
    full: Transformer, smaller: Transformer, chat: ChatTokenizer, rows: Sequence[TokenRow]
) -> Comparison:
    """What replacing `full` by `smaller` changes, both in the precision that they were loaded in."""
    nats, before, size, same = 0.0, 0.0, 0, 0
    divergences = []
    for row in rows:
        target = torch.tensor([row.ids[place] for place in row.scored])
        theirs, ours = _log_probs(full, row), _log_probs(smaller, row)
        before -= float(theirs.gather(1, target[:, None]).sum())
        nats -= float(ours.gather(1, target[:, None]).sum())
        divergences.append((theirs.exp() * (theirs - ours)).sum(1))
        same += int((theirs.argmax(1) == ours.argmax(1)).sum())
        size += len(chat.tokenizer.decode(target.tolist(), skip_special_tokens=False).encode())
    kl = torch.cat(divergences).clamp_min(0)  # rounding makes a zero a little less; NaN stays
    bits = math.log(2) * max(1, size)
    return Comparison(
        bits_per_byte=nats / bits,
        bits_per_byte_before=before / bits,
        kl=float(kl.mean()),
        kl_p99=float(kl.quantile(0.99)),
        top1_agreement=same / len(kl),
        tokens=len(kl),
    )


def _log_probs(model: Transformer, row: TokenRow) -> Tensor:
    """log p of every token at the scored places of a row: (S, V) float64."""
    ids = torch.tensor([row.ids])
    hidden = model.hidden(ids, torch.arange(len(row.ids))[None], None)[0]
    places = torch.tensor(row.scored) - 1
    out = model.outputs(hidden[None, places], {"tokens": ids[:, places]}, {"logits"}).logits
    assert out is not None
    return F.log_softmax(out[0].double(), dim=-1)
