"""Whether `torch.compile` pays for a training run. The plan and the run ask the same; torch is not needed to answer."""

from __future__ import annotations

SECONDS = 40.0
"""What compiling costs on two cores with a cold cache (measured: 15 to 41 s)."""
EAGER_SHARE = 0.35
"""Share of the matmul peak that the eager loop reaches on a CPU (measured: 0.35 to 0.45)."""
GAIN = 0.35
"""Share of the eager time that compiling saves (measured: 0.30 to 0.45)."""


def pays(wanted: str, flops: float, peak: float, filled: float = 1.0) -> bool:
    """Whether a run of `flops` compiles where its `compile` is `wanted`, on a machine with a matmul peak of `peak` FLOP/s.

    `auto`: if the run gets its compile time back. Compiled code computes whole rows, of which the share `filled` is no padding
    (nor the second copy of a pair's prompt); uncompiled only that is computed (`model.compact`).
    """
    saved = flops / (peak * EAGER_SHARE) * (1 - (1 - GAIN) / min(filled, 1.0))
    return wanted == "on" or (wanted == "auto" and saved > SECONDS)
