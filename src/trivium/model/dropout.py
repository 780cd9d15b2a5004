"""Dropout whose masks are a function of the batch, so that two passes over the same tokens drop the same."""

from __future__ import annotations

import torch
from torch import Tensor

_ODD = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D)
_LOW = 0xFFFFFFFF


class KeyedDropout:
    """What the layers of one model share: the keys of the tokens in the pass under way, (R, S) int64; None draws masks anew.

    Two passes over the same token keep the same inputs wherever the token lies in the batch, whatever else is there, with
    gradients or without: a policy that is scored when it has replied, and again when it learns, is one policy.
    """

    keys: Tensor | None = None

    def __call__(self, x: Tensor, share: float, layer: int) -> Tensor:
        """x (R, S, K) with `share` of its numbers set to 0 and the others scaled up; `layer` tells layers apart."""
        assert self.keys is not None
        columns = torch.arange(x.shape[-1], device=x.device)
        mixed = self.keys.to(x.device)[..., None] * _ODD[0] + columns * _ODD[1] + layer * _ODD[2]
        kept = _hashed(mixed) >= int(share * 2**32)
        return x * kept / (1 - share)


def _hashed(x: Tensor) -> Tensor:
    """int64 -> numbers below 2^32, evenly spread: the finaliser of MurmurHash3 (Appleby)."""
    x = x & _LOW
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        x = ((x ^ (x >> shift)) * factor) & _LOW
    return x
