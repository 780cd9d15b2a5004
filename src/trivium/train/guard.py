"""Stops a run before a broken number reaches the weights, and lets a user stop it without losing work."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from trivium.errors import TrainingError


def check_finite(loss: float, norm: float, step: int) -> None:
    """TrainingError if the loss or the gradient norm (L2, before clipping) is not a finite number."""
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise TrainingError(
            f"step {step}: loss {loss}, gradient norm {norm}; the weights were not touched",
            fix="lower lr, raise warmup, or look at the data of this step; the last checkpoint is kept",
        )


_LAUNCHERS = (signal.SIGUSR2,)
"""Signals by which a launcher announces the end (Slurm through submitit): heeded where a launcher has set a handler."""


class StopRequest:
    """Set by Ctrl-C or SIGTERM; the loop looks at it after each step."""

    signal: int = 0

    def __bool__(self) -> bool:
        return self.signal != 0


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """The first Ctrl-C or SIGTERM asks for a checkpoint and a clean exit; the second takes its usual effect at once."""
    request = StopRequest()
    before: dict[int, object] = {}

    def ask(number: int, _frame: FrameType | None) -> None:
        request.signal = number
        signal.signal(number, before[number])  # type: ignore[arg-type]

    with suppress(ValueError):  # not the main thread: signals are somebody else's business
        for number in (signal.SIGINT, signal.SIGTERM, *_LAUNCHERS):
            if number in _LAUNCHERS and signal.getsignal(number) is signal.SIG_DFL:
                continue
            before[number] = signal.getsignal(number)
            signal.signal(number, ask)
    try:
        yield request
    finally:
        for caught, handler in before.items():
            signal.signal(caught, handler)  # type: ignore[arg-type]
