"""Seconds of a pass on this machine: matrix products at the rate that their width reaches, and all that is no product (no torch).

Both rates are measured (`plan.machine`): small products are slower than large ones, and of a small model norms, rotary positions,
the gate and attention's softmax take as long as its products.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from trivium.model.config import ModelConfig
from trivium.plan import flops, memory
from trivium.plan.roofline import POINTWISE

SCORES = 3
"""Numbers that are moved for each pair of places of a row, in each head: scores, masked, as shares."""
LOGITS = 3
"""The same for each word of the vocabulary."""
FUSED = 0.65
"""Share of the time beside products that is left where the compiler joins kernels (docs/benchmarks.md: 0.5 to 0.9)."""


@dataclass(frozen=True)
class Rates:
    """What this machine reaches in a second, in the numbers that it trains in."""

    products: Mapping[int, float]
    """FLOP of products of many rows with a square matrix, by its width."""
    numbers: float
    """Numbers that a block's other kernels move (`moved`), eager."""

    @property
    def peak(self) -> float:
        return max(self.products.values())

    def product(self, width: float) -> float:
        """FLOP of products with matrices so wide: between those that were measured as the logarithm says."""
        known = sorted(self.products.items())
        inside = [pair for pair in pairwise(known) if pair[0][0] <= width <= pair[1][0]]
        if not inside:
            return known[0][1] if width < known[0][0] else known[-1][1]
        (low, slow), (high, fast) = inside[0]
        return slow + (fast - slow) * math.log(width / low) / math.log(high / low)

    def seconds(
        self,
        config: ModelConfig,
        context: int,
        forwards: float = 1,
        *,
        frozen: bool = False,
        fused: bool = False,
    ) -> float:
        """Of one token, in rows of `context` tokens. `forwards`: work in forward passes, 3 for training; `frozen`: only adapters
        are trained, and no weight needs a product for its own gradient; `fused`: compiled."""
        square = flops.square(config) * context
        products = (forwards - frozen) * (flops.forward(config, context) - square)
        beside = forwards * moved(config, context) * (FUSED if fused else 1.0)
        looking = forwards * square / self.product(config.head_dim)
        return products / self.product(config.dim) + looking + beside / self.numbers


def even(rate: float) -> Rates:
    """Of a machine that reaches `rate` FLOP/s at every width, and takes no time for what is no product."""
    return Rates({1: rate}, math.inf)


def moved(config: ModelConfig, context: int) -> float:
    """Numbers that kernels other than products move for one token in a forward pass."""
    residual, qkv, wide = POINTWISE
    heads, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    block = residual * config.dim + qkv * (heads + 2 * keys) + wide * memory.active_width(config)
    return config.layers * (block + SCORES * config.heads * context) + LOGITS * config.vocab_size
