"""Stops a run before a broken number reaches the weights, and lets a user stop it without losing work."""

from __future__ import annotations

import math
import signal
import statistics
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from trivium.errors import TrainingError
from trivium.recipe import training

SPREAD = 1.4826
"""Median absolute deviation times this is the standard deviation of a normal distribution."""
LEAST_SPREAD = 1e-3
"""Smallest spread believed in, as a share of the median: losses that all but stand still make no spike of rounding."""


def fresh() -> dict[str, Any]:
    """The state of a guard that has seen nothing: losses accepted, steps at which a batch was refused."""
    return {"accepted": [], "refused": []}


class Guard:
    """Judges each step's loss and gradient norm before the optimizer's step is taken.

    A loss is a spike if (loss - median) / (1.4826 MAD) exceeds `z`, both taken over the last `window` losses that were
    *accepted*: what was refused never moves the window, so one broken batch cannot hide the next, nor refuse the good ones
    after it (PaLM, section 5.1, skips by hand; the robust z-score is Iglewicz & Hoaglin 1993's).

    `state` is plain JSON and belongs in the checkpoint.
    """

    def __init__(self, config: training.Guard, state: dict[str, Any]) -> None:
        self.config, self.state = config, state

    def judge(self, loss: float, norm: float) -> str | None:
        """What is wrong with a step of this loss and gradient norm (L2, before clipping); None if nothing is."""
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return f"loss {loss}, gradient norm {norm}"
        accepted = self.state["accepted"]
        if self.config.z is None or len(accepted) < self.config.window // 4:
            return None
        middle = statistics.median(accepted)
        spread = SPREAD * statistics.median(abs(value - middle) for value in accepted)
        z = (loss - middle) / max(spread, LEAST_SPREAD * abs(middle), 1e-12)
        return f"loss {loss:.6g} is {z:.3g} deviations above {middle:.6g}" if z > self.config.z else None

    def accept(self, loss: float) -> None:
        self.state["accepted"] = [*self.state["accepted"], loss][-self.config.window :]

    def refuse(self, step: int, reason: str) -> None:
        """Counts a batch that is left out. TrainingError where none may be, or too many were within one window of steps."""
        near = [other for other in self.state["refused"] if other > step - self.config.window]
        self.state["refused"] = [*near, step]
        if self.config.on_bad == "stop" or len(near) >= self.config.max_skips:
            many = f"; {len(near) + 1} batches were refused within {self.config.window} steps" if near else ""
            raise TrainingError(
                f"step {step}: {reason}; the weights were not touched{many}",
                fix="lower lr, raise warmup, or look at the data of this step; the last checkpoint is kept"
                + (
                    ""
                    if self.config.on_bad != "stop"
                    else "; `guard: {on_bad: skip}` leaves such batches out"
                ),
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
