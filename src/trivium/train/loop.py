"""The one loop:  load -> forward -> loss -> backward -> step.

Only the batches and the objective differ between phases. What is not a phase's business (checkpoints, progress, stopping) is done
between the steps and never touches the five lines.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trivium.errors import Interrupted, Preempted
from trivium.model.moe import balance
from trivium.train import best, checkpoint, recover, schedule
from trivium.train.compiled import Forward, forward_of
from trivium.train.distributed import any_rank, clip_gradients, global_sum, rank, sum_gradients
from trivium.train.guard import Guard, StopRequest, stop_on_signal
from trivium.train.optim import build
from trivium.train.progress import Progress
from trivium.train.run import Run, State, moved
from trivium.train.validation import validate
from trivium.types import Batch


def train(run: Run) -> dict[str, Any]:
    """Trains `run.model` in place; returns the metrics. Goes on from the run's newest whole checkpoint, if there is one.

    Raises Interrupted after a checkpoint on Ctrl-C, Preempted on SIGTERM, TrainingError where the guard stops the run.
    """
    model, config = run.model, run.config
    optimizer = build(model, config)
    writer = checkpoint.Writer(run.folder, run.emit, keep_last=config.keep_last, keep_every=config.keep_every)
    with stop_on_signal() as stop, writer:
        state = recover.resume(run, optimizer, writer)
        guard, progress, due = Guard(config.guard, state["guard"]), Progress(run, state), Due(run, writer)
        forward = forward_of(run, state, passes)
        if "before" not in state and run.validation is not None:
            state["before"] = validate(run)
        best.check(run, state.get("before"))
        while state["step"] < run.steps and not best.ended(run, state):
            step = state["step"]
            micro = [moved(b, run.machine.device) for b in run.batches.batch(state["position"])]  # LOAD
            progress.sees(micro)
            weight, total, metrics = passes(run, forward, micro)  # FORWARD, LOSS, BACKWARD
            sum_gradients(model)
            norm = clip_gradients(model, config.max_grad_norm)
            mean = float(global_sum(total) / weight)
            if (reason := guard.judge(mean, float(norm))) is not None:
                optimizer.zero_grad(set_to_none=True)
                recover.refuse(run, optimizer, writer, state, guard, reason, mean)
                continue
            guard.accept(mean)
            schedule.set_rates(optimizer, config, step, run.steps)
            optimizer.step()  # STEP
            optimizer.zero_grad(set_to_none=True)
            metrics |= balance(model, global_sum)

            state["step"], state["position"] = step + 1, state["position"] + 1
            progress.after(step, metrics, float(norm), float(optimizer.param_groups[0]["lr"]))
            writer.poll()
            stopping = any_rank(bool(stop), run.machine.device)
            if due(state, stopping):
                getattr(run.batches, "settle", lambda: None)()
                writer.save(model, optimizer, state, urgent=stopping)
                if stopping:
                    raise _stopped(stop, state["step"], run.steps, writer.finish())
        recover.keep(run, optimizer, state)
        return progress.summary() | best.last_look(run, state, optimizer, writer)


def passes(run: Run, forward: Forward, micro: Sequence[Batch]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Forward, loss and backward of this rank's micro-batches of a step: leaves the gradients in the parameters.

    Returns the weight of the step over all ranks, the sum of this rank's losses, and the metrics, (sum, weight) each.
    """
    units = torch.stack([run.objective.weight(batch) for batch in micro]).sum()
    weight = global_sum(units).clamp_min(1)  # the one denominator, known before the forward pass
    total = torch.zeros((), device=run.machine.device)
    metrics: dict[str, Tensor] = {}
    if run.pipeline is not None:  # the same three, scheduled over the ranks
        metrics = run.pipeline.step(micro, weight, run.machine.autocast())
        return weight, total + metrics["loss"][0], metrics
    for batch in micro:
        with run.machine.autocast():
            out = forward(batch, run.objective.wants)  # FORWARD
        loss = run.objective(out, batch)  # LOSS
        (loss.total / weight).backward()  # type: ignore[no-untyped-call]  # BACKWARD
        total += loss.total.detach()
        for name, pair in loss.metrics.items():
            metrics[name] = metrics.get(name, 0) + torch.stack(pair)
    return weight, total, metrics


def _stopped(stop: StopRequest, step: int, steps: int, kept: str) -> Interrupted:
    kind = Interrupted if stop.signal == signal.SIGINT else Preempted
    fix = "run the same command again: it goes on from there"
    return kind(f"stopped after step {step} of {steps}; {kept}", fix=fix)


class Due:
    """Whether a checkpoint is to be written now; all ranks get the same answer."""

    def __init__(self, run: Run, writer: checkpoint.Writer) -> None:
        self.run, self.writer, self.saved = run, writer, time.monotonic()

    def __call__(self, state: State, stopping: bool) -> bool:
        if state["position"] % self.run.batches.period != 0:
            return False
        if stopping:
            return True
        if state["step"] == self.run.steps:
            return False
        if best.is_new(self.run, state):
            return True
        interval = self.run.config.checkpoint_every
        if interval.unit == "steps":
            return bool(state["step"] % int(interval.every) == 0)
        over = time.monotonic() - self.saved >= interval.every and not self.writer.busy
        due = any_rank(rank() == 0 and over, self.run.machine.device)  # one clock for all
        if due:
            self.saved = time.monotonic()
        return due
