"""The forward pass of a run: the model itself, or its compiled form where that computes the same."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from trivium.model.moe import forget_load, uncompiled
from trivium.train.distributed import clip_gradients, global_sum, sum_gradients
from trivium.train.run import Run, State, moved
from trivium.types import Output

Forward = Callable[..., Output]

OFF = 0.1
"""Share by which the gradient's norm may differ (bf16 in another order moves it by about 0.01)."""


def forward_of(
    run: Run, state: State, passes: Callable[..., tuple[torch.Tensor, torch.Tensor, object]]
) -> Forward:
    """What computes the steps of `run`; `passes` is the loop's. Emits a warning where compiled code is not to be trusted.

    On a CPU the code is held against the model on the first micro-batch: torch 2.13 wrote some (width 192, 3 heads, 5 layers,
    bf16) whose gradient was not a number where the model's own was. Where they differ, the run goes on uncompiled.
    """
    if not state["compiled"]:
        return run.model
    uncompiled(run.model)
    compiled: Forward = torch.compile(run.model)
    if run.machine.device != "cpu" or run.pipeline is not None:
        return compiled
    micro = [moved(run.batches.batch(state["position"])[0], run.machine.device)]
    found = []
    for forward in (run.model, compiled):
        weight, total, _ = passes(run, forward, micro)
        sum_gradients(run.model)
        found.append((float(global_sum(total) / weight), float(clip_gradients(run.model, math.inf))))
        run.model.zero_grad(set_to_none=True)
        forget_load(run.model)
    (loss, norm), (its_loss, its_norm) = found
    same = abs(its_loss - loss) <= OFF * max(abs(loss), 0.1) and abs(its_norm - norm) <= OFF * norm + 1e-3
    if same or not math.isfinite(loss + norm):  # what is wrong with the data is the guard's to say
        return compiled
    state["compiled"] = False
    message = (
        f"the compiled code computes something else (loss {its_loss:.4g} for {loss:.4g}, gradient norm {its_norm:.4g} for "
        f"{norm:.4g}): this run goes on without it, more slowly"
    )
    run.emit({"event": "warning", "message": message})
    return run.model
