"""Where a run begins or begins again: at its newest checkpoint, and after a batch that the guard refused."""

from __future__ import annotations

import math

import torch
import torch.distributed as dist

from trivium.errors import TrainingError
from trivium.train import checkpoint
from trivium.train.guard import Guard, fresh
from trivium.train.machine import compiling_pays
from trivium.train.run import Run, State
from trivium.types import Emit, Event


def resume(run: Run, optimizer: torch.optim.Optimizer, writer: checkpoint.Writer) -> State:
    """The state to go on from: that of the newest whole checkpoint, whose tensors are loaded, or a new one."""
    path = checkpoint.newest(run.folder, run.emit)
    if path is not None:
        state = {"guard": fresh(), **checkpoint.load(path, run.model, optimizer)}
        state.setdefault("position", state["step"])
        run.emit({"event": "resume", "step": state["step"], "steps": run.steps})
        _announce(run, state)
        return state
    compiled = compiling_pays(run.config, run.flops_per_step * run.steps, run.peak, run.filled)
    state = {"step": 0, "position": 0, "compiled": compiled, "curve": [], "guard": fresh()}
    _announce(run, state)
    if run.config.guard.on_bad == "rewind":  # there has to be something to go back to
        writer.save(run.model, optimizer, state)
    return state


def keep(run: Run, optimizer: torch.optim.Optimizer, state: State) -> None:
    """Leaves what the last step left in `last_state/` beside the checkpoints, for a longer run to go on from.

    Not where it would go on from something else: the best weights, a set of replies that is half used or made ahead, a last batch
    that held less than the others.
    """
    config = run.config
    ahead = getattr(config, "staleness", 0) > 0
    if (
        not config.keep_optimizer
        or config.chooses
        or ahead
        or config.epochs is not None
        or state["position"] % run.batches.period
    ):
        return
    with checkpoint.Writer(run.folder.parent / "last_state", _only_warnings(run.emit), keep_last=1) as writer:
        writer.save(run.model, optimizer, state, urgent=True)


def _only_warnings(emit: Emit) -> Emit:
    def told(event: Event, /) -> None:
        if event["event"] == "warning":
            emit(event)

    return told


def _announce(run: Run, state: State) -> None:
    """Says why the first step is about to take long."""
    if state["compiled"]:
        run.emit(
            {"event": "message", "message": "compiling the model: the first step may take a minute or more"}
        )


def refuse(
    run: Run,
    optimizer: torch.optim.Optimizer,
    writer: checkpoint.Writer,
    state: State,
    guard: Guard,
    reason: str,
    loss: float,
) -> None:
    """Leaves out the batch at `state["position"]`, whose step was not taken, or goes back to the last checkpoint first.

    Going back leaves out every batch since that checkpoint, since those before a spike led up to it (PaLM, section 5.1). The
    run then equals one whose data never held what was left out. TrainingError if the guard says that it is enough.
    """
    step, position = state["step"], state["position"]
    rewinds = run.config.guard.on_bad == "rewind"
    describe = getattr(run.batches, "describe", None)
    event = {"event": "guard", "step": step, "position": position, "reason": reason}
    event |= {"action": run.config.guard.on_bad, "loss": loss if math.isfinite(loss) else None}
    if describe is not None:
        event["batch"] = describe(position)
    if not rewinds:
        run.emit(event)
        guard.refuse(step, reason)
        state["position"] = position + 1
        return
    writer.finish()
    if dist.is_initialized():
        dist.barrier()
    path = checkpoint.newest(run.folder, run.emit)
    run.emit(event | {"back_to": path and path.name})
    guard.refuse(step, reason)
    if path is None:
        raise TrainingError(
            f"step {step}: {reason}; there is no whole checkpoint to go back to",
            fix="make room on the disk and run again, or write `guard: {on_bad: skip}`",
        )
    refused = guard.state["refused"]  # counted on, so that a run cannot go back for ever
    loaded = checkpoint.load(path, run.model, optimizer)
    state |= {name: value for name, value in loaded.items() if name != "guard"}
    guard.state.clear()
    guard.state.update(loaded["guard"] | {"refused": refused})
    period = run.batches.period
    state["position"] = -(-(position + 1) // period) * period
