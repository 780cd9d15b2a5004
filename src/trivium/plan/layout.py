"""What `parallel: auto` means: copies where the model fits a device, shards where it does not."""

from __future__ import annotations

from trivium.recipe.parallel import Parallel

BYTES_PER_PARAMETER = 16
"""Weight, gradient and AdamW's two moments, in float32 (Rajbhandari et al. 2020, ZeRO, section 3.1, counts the same)."""
BYTES_PER_ACTIVATION = 34
"""Per token, layer and unit of width, without recomputation (Korthikanti et al. 2022, eq. 2, attention fused)."""
ROOM = 0.8
"""Share of a device's memory that is planned for; the rest is the allocator's."""


def choose(
    parameters: int, tokens: int, layers: int, dim: int, *, devices: int, memory: float, batch: int
) -> Parallel:
    """The layout for `devices` devices of `memory` bytes each; `tokens` in one device's micro-batch, `batch` rows a step.

    Fewer devices than there are where `batch` rows do not divide among them.
    """
    while batch % devices:
        devices -= 1
    need = parameters * BYTES_PER_PARAMETER + tokens * layers * dim * BYTES_PER_ACTIVATION
    if devices == 1 or need < ROOM * memory:
        return Parallel(data=devices)
    return Parallel(shard=devices)
