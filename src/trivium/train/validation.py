"""The loss on what is held out: a fixed set, the same at every look."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trivium.train.distributed import global_sum
from trivium.types import Batch

if TYPE_CHECKING:
    from trivium.train.loop import Run


def moved(batch: Batch, device: str) -> Batch:
    """The batch on `device`."""
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}  # type: ignore[attr-defined, return-value]


@torch.no_grad()
def validate(run: Run, step: int | None = None) -> dict[str, float]:
    """The objective's metrics on the fixed held-out set, each as sum over weight; `step`: those taken so far, for the event."""
    assert run.validation is not None
    sums: dict[str, Tensor] = {}
    held = run.validation.batch(0)
    if run.pipeline is not None:
        sums, held = (
            run.pipeline.validate([moved(b, run.machine.device) for b in held], run.machine.autocast()),
            [],
        )
    for batch in held:
        here = moved(batch, run.machine.device)
        with run.machine.autocast():
            out = run.model(here, run.objective.wants)
        for name, pair in run.objective(out, here).metrics.items():
            sums[name] = sums.get(name, 0) + torch.stack(pair)
    sums = {
        name: global_sum(pair) for name, pair in sums.items()
    }  # ranks along `data` add the same: the ratio stays
    result = {name: float(pair[0] / pair[1].clamp_min(1)) for name, pair in sums.items()}
    run.emit({"event": "validation", **({} if step is None else {"step": step}), **result})
    return result
