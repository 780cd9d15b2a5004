"""What a run says of itself while it trains."""

from __future__ import annotations

import resource
import sys
import time
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trivium.train.distributed import global_sum
from trivium.train.validation import validate

if TYPE_CHECKING:
    from trivium.train.loop import Run


class Progress:
    """Turns steps into events: loss and the objective's metrics, speed, utilisation, time left."""

    def __init__(self, run: Run, state: dict[str, Any]) -> None:
        self.run, self.state = run, state
        self.rates: list[float] = []
        self.clock = time.monotonic()
        self.first = state["step"]

    def after(self, step: int, metrics: dict[str, Tensor], norm: float, lr: float) -> None:
        look = self.run.config.validate_every
        if look and self.run.validation is not None and not (step + 1) % look:
            validate(self.run, step + 1)
        now = time.monotonic()
        seconds, self.clock = now - self.clock, now
        if step > self.first:  # the first step pays for compiling and for warm caches
            self.rates.append(seconds)
        every = self.run.config.log_every
        if (step + 1) % every and step + 1 != self.run.steps and step != 0:
            return  # which steps are logged depends on the step alone: the curve of a resumed run is the same
        summed = {name: global_sum(pair) for name, pair in metrics.items()}
        values = {name: float(pair[0] / pair[1].clamp_min(1)) for name, pair in summed.items()}
        self.state["curve"].append([step + 1, values["loss"]])
        typical = self.typical() or seconds
        event = {"step": step + 1, "steps": self.run.steps, **values, "lr": lr, "grad_norm": norm}
        event |= {"mfu": self.run.flops_per_step / typical / self.run.peak, "seconds_per_step": typical}
        event["memory"] = peak_memory(self.run.machine.device)
        self.run.emit({"event": "step", **event, "eta_s": typical * (self.run.steps - step - 1)})

    def typical(self) -> float | None:
        """Median seconds of the last hundred steps."""
        recent = sorted(self.rates[-100:])
        return recent[len(recent) // 2] if recent else None

    def summary(self) -> dict[str, Any]:
        typical = self.typical()
        mfu = self.run.flops_per_step / typical / self.run.peak if typical else None
        curve = self.state["curve"]
        return {
            "steps": self.run.steps,
            "compiled": self.state["compiled"],
            "seconds_per_step": typical,
            "mfu": mfu,
            "curve": curve,
        }


def peak_memory(device: str) -> int:
    """Most bytes held so far: of the GPU's allocator, or of the process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
