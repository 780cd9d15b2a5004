"""What a run says of itself while it trains."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence as Many
from typing import Any

import torch
from torch import Tensor

from trivium.cores import most_held
from trivium.train import best
from trivium.train.distributed import any_rank, global_sum, rank, world
from trivium.train.run import Run, State
from trivium.train.validation import validate
from trivium.types import Batch, Event


class Progress:
    """Turns steps into events: loss and the objective's metrics, speed, utilisation, time left."""

    def __init__(self, run: Run, state: State) -> None:
        self.run, self.state = run, state
        self.rates: list[float] = []  # seconds of each step
        self.speeds: list[float] = []  # FLOP/s of each step on this rank
        self.peak, self.work = run.peak, 0.0
        self.clock = time.monotonic()
        self.first = state["step"]
        self.samples = Samples(run, state)

    def sees(self, micro: Many[Batch]) -> None:
        """Counts what this rank's next step computes, without padding.

        `Run.work` makes FLOPs of (tokens, squares): the sum of the documents' squared lengths is what attention's products grow
        with, whole squares although the mask hides half, as in `plan.flops`. Without it, `Run.flops_per_step` is shared out.
        """
        if self.run.work is None:
            self.work = self.run.flops_per_step / world()
            return
        real = [batch["doc_id"] >= 0 for batch in micro]
        tokens = sum(int(place.sum()) for place in real)
        squares = sum(
            int((2 * batch["positions"] + 1)[place].sum()) for batch, place in zip(micro, real, strict=True)
        )
        self.work = self.run.work(tokens, squares) + self.run.live_flops / world()

    def after(self, step: int, metrics: dict[str, Tensor], norm: float, lr: float) -> None:
        seconds = time.monotonic() - self.clock
        look = self.run.config.validate_every
        if look and self.run.validation is not None and not (step + 1) % look:
            best.sees(self.run, self.state, validate(self.run, step + 1), step + 1)
        self.samples(step + 1)
        self.clock = time.monotonic()  # looks are no part of a step
        if step > self.first:  # the first step pays for compiling and for warm caches
            self.rates.append(seconds)
            self.speeds.append(self.work / seconds)
        every = self.run.config.log_every
        if (step + 1) % every and step + 1 != self.run.steps and step != 0:
            return  # which steps are logged depends on the step alone: the curve of a resumed run is the same
        summed = {name: global_sum(pair) for name, pair in metrics.items()}
        values = {name: float(pair[0] / pair[1].clamp_min(1)) for name, pair in summed.items()}
        self.state["curve"].append([step + 1, values["loss"]])
        typical = self.typical() or seconds
        event: Event = {"step": step + 1, "steps": self.run.steps, **values, "lr": lr, "grad_norm": norm}
        event |= {"mfu": self.utilisation(), "seconds_per_step": typical}
        event["memory"] = peak_memory(self.run.machine.device)
        self.run.emit({"event": "step", **event, "eta_s": typical * (self.run.steps - step - 1)})

    def typical(self) -> float | None:
        """Median seconds of the last hundred steps."""
        return statistics.median_low(self.rates[-100:]) if self.rates else None

    def utilisation(self) -> float | None:
        """Share of the matmul peak that the median of the last hundred steps reached (model FLOPs utilisation), at most 1.

        A peak that steps exceed was measured while the machine had other work: it is raised to what they reached.
        """
        if not self.speeds:
            return None
        speed = statistics.median_low(self.speeds[-100:])
        if speed > self.peak:
            if self.peak == self.run.peak:
                self.run.emit({"event": "warning", "message": TOO_LOW})
            self.peak = speed
        return speed / self.peak

    def summary(self) -> dict[str, Any]:
        typical = self.typical()
        curve = self.state["curve"]
        return {
            "steps": self.state["step"],
            "position": self.state["position"],
            "compiled": self.state["compiled"],
            "seconds_per_step": typical,
            "mfu": self.utilisation(),
            "memory": peak_memory(self.run.machine.device),
            "curve": curve,
            "samples": self.state.get("samples", []),
        }


TOO_LOW = "training is faster than the matmul peak that was measured: the machine was busy then, so the peak is raised"

KEPT = 16
"""Most looks at samples that a report shows."""


class Samples:
    """Lets the model write where a look is due; all ranks agree on when. What it wrote goes into an event and the state."""

    def __init__(self, run: Run, state: State) -> None:
        self.run, self.state = run, state
        self.clock, self.pause = time.monotonic(), 0.0

    def __call__(self, step: int) -> None:
        if self.run.sample is None or not self._due(step):
            return
        started = time.monotonic()
        said = self.run.sample()
        if said:
            self.run.emit({"event": "samples", "step": step, "samples": said})
            kept = [*self.state.get("samples", []), {"step": step, "samples": said}]
            self.state["samples"] = kept if len(kept) <= KEPT else kept[::2]
        self.clock = time.monotonic()
        self.pause = 100 * (self.clock - started)

    def _due(self, step: int) -> bool:
        config = self.run.config.samples
        assert config is not None
        if config.every.unit == "steps":
            return step % int(config.every.every) == 0
        over = time.monotonic() - self.clock >= max(config.every.every, self.pause)
        return any_rank(rank() == 0 and over, self.run.machine.device)  # one clock for all


def peak_memory(device: str) -> int:
    """Most bytes held so far: of the GPU's allocator, or of the process."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else most_held()
