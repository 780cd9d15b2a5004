"""The one loop:  load -> forward -> loss -> backward -> step.

Only the batches and the objective differ between phases. What is not a phase's business (checkpoints, progress, stopping) is done
between the steps and never touches the five lines.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trivium.errors import Interrupted
from trivium.model.moe import balance
from trivium.model.transformer import Transformer
from trivium.recipe.training import TrainingStage
from trivium.train import checkpoint, schedule
from trivium.train.distributed import any_rank, clip_gradients, global_sum, sum_gradients
from trivium.train.guard import check_finite, stop_on_signal
from trivium.train.machine import Machine, compiling_pays
from trivium.train.optim import adamw
from trivium.train.parallel.pipeline import Pipeline
from trivium.types import Batch, Batches, Emit, Objective, Output


@dataclass(frozen=True)
class Run:
    """One training run: what to train, on what, for how long, and where its checkpoints go."""

    model: Transformer
    objective: Objective
    batches: Batches
    steps: int
    config: TrainingStage
    machine: Machine
    folder: Path  # checkpoints of this run
    emit: Emit
    pipeline: Pipeline | None = None  # runs the forward and backward passes where layers lie on several ranks
    validation: Batches | None = None  # a fixed held-out set; batch(0) is all of it
    flops_per_step: float = 0.0
    peak: float = 1.0  # measured matmul peak, FLOP/s


def train(run: Run) -> dict[str, Any]:
    """Trains `run.model` in place; returns the metrics. Goes on from the run's newest whole checkpoint, if there is one.

    Raises Interrupted after a checkpoint on Ctrl-C or SIGTERM, TrainingError for a loss that is not finite.
    """
    model, objective, config = run.model, run.objective, run.config
    optimizer = adamw(model, config)
    state = _resume(run, optimizer)
    forward: Callable[..., Output] = torch.compile(model) if state["compiled"] else model
    if "before" not in state and run.validation is not None:
        state["before"] = validate(run)
    progress, saved = Progress(run, state), time.monotonic()
    with stop_on_signal() as stop:
        for step in range(state["step"], run.steps):
            micro = [_to(batch, run.machine.device) for batch in run.batches.batch(step)]  # LOAD
            units = torch.stack([objective.weight(batch) for batch in micro]).sum()
            weight = global_sum(units).clamp_min(1)  # the one denominator, known before the forward pass
            total = torch.zeros((), device=run.machine.device)
            metrics: dict[str, Tensor] = {}
            if run.pipeline is not None:  # the same three, scheduled over the ranks
                metrics = run.pipeline.step(micro, weight, run.machine.autocast())
                total += metrics["loss"][0]
                micro = []
            for batch in micro:
                with run.machine.autocast():
                    out = forward(batch, objective.wants)  # FORWARD
                loss = objective(out, batch)  # LOSS
                (loss.total / weight).backward()  # type: ignore[no-untyped-call]  # BACKWARD
                total += loss.total.detach()
                for name, pair in loss.metrics.items():
                    metrics[name] = metrics.get(name, 0) + torch.stack(pair)
            sum_gradients(model)
            norm = clip_gradients(model, config.clip)
            check_finite(float(global_sum(total) / weight), float(norm), step)
            for group in optimizer.param_groups:
                group["lr"] = config.lr * group.get("share", 1.0) * schedule.factor(config, step, run.steps)
            optimizer.step()  # STEP
            optimizer.zero_grad(set_to_none=True)
            metrics |= balance(model, global_sum)

            state["step"] = step + 1
            progress.after(step, metrics, float(norm), float(optimizer.param_groups[0]["lr"]))
            due = time.monotonic() - saved >= config.checkpoint_every
            last = state["step"] == run.steps
            stopping = any_rank(bool(stop), run.machine.device)
            if (stopping or (due and not last)) and state["step"] % run.batches.period == 0:
                kept = _save(run, optimizer, state)
                saved = time.monotonic()
                if stopping:
                    raise Interrupted(
                        f"stopped after step {state['step']} of {run.steps}; {kept}",
                        fix="run the same command again: it goes on from there",
                    )
    result = progress.summary()
    if run.validation is not None:
        after = validate(run)
        result |= {"before": state["before"], "after": after}
    return result


def _resume(run: Run, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    path = checkpoint.newest(run.folder, run.emit)
    if path is None:
        compiled = compiling_pays(run.config, run.flops_per_step * run.steps, run.peak)
        return {"step": 0, "compiled": compiled, "curve": []}
    state = checkpoint.load(path, run.model, optimizer)
    run.emit({"event": "resume", "step": state["step"], "steps": run.steps})
    return state


def _save(run: Run, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> str:
    """Says what is on the disk afterwards."""
    try:
        checkpoint.save(run.folder, run.model, optimizer, state)
    except OSError as error:  # a full disk must not end the training; the last good checkpoint is still there
        run.emit({"event": "warning", "message": f"no checkpoint at step {state['step']}: {error}"})
        return f"no checkpoint could be written ({error}), only earlier ones are kept"
    run.emit({"event": "checkpoint", "step": state["step"]})
    return "the checkpoint is kept"


def _to(batch: Batch, device: str) -> Batch:
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}  # type: ignore[attr-defined, return-value]


@torch.no_grad()
def validate(run: Run) -> dict[str, float]:
    """The objective's metrics on the fixed held-out set, each as sum over weight."""
    assert run.validation is not None
    sums: dict[str, Tensor] = {}
    held = run.validation.batch(0)
    if run.pipeline is not None:
        sums, held = (
            run.pipeline.validate([_to(b, run.machine.device) for b in held], run.machine.autocast()),
            [],
        )
    for batch in held:
        moved = _to(batch, run.machine.device)
        with run.machine.autocast():
            out = run.model(moved, run.objective.wants)
        for name, pair in run.objective(out, moved).metrics.items():
            sums[name] = sums.get(name, 0) + torch.stack(pair)
    sums = {
        name: global_sum(pair) for name, pair in sums.items()
    }  # ranks along `data` add the same: the ratio stays
    result = {name: float(pair[0] / pair[1].clamp_min(1)) for name, pair in sums.items()}
    run.emit({"event": "validation", **result})
    return result


class Progress:
    """Turns steps into events: loss and the objective's metrics, speed, utilisation, time left."""

    def __init__(self, run: Run, state: dict[str, Any]) -> None:
        self.run, self.state = run, state
        self.rates: list[float] = []
        self.clock = time.monotonic()
        self.first = state["step"]

    def after(self, step: int, metrics: dict[str, Tensor], norm: float, lr: float) -> None:
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
