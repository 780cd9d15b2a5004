"""The loss on what is held out: a fixed set, the same at every look; of all of it, and of each source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trivium.train.distributed import global_sum
from trivium.types import Batch, Objective, Output

if TYPE_CHECKING:
    from trivium.train.loop import Run


def moved(batch: Batch, device: str) -> Batch:
    """The batch on `device`."""
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}  # type: ignore[attr-defined, return-value]


def measured(objective: Objective, out: Output, batch: Batch, sources: int) -> dict[str, Tensor]:
    """The objective's metrics, (1 + sources, 2) each: (sum, weight) of the whole batch, then of each source alone.

    A source alone is the batch with a loss_mask of 0 elsewhere, so its sums and weights add up to those of the whole.
    """
    parts = [objective(out, batch).metrics]
    for number in range(sources):
        only: Batch = {**batch, "loss_mask": batch["loss_mask"] * (batch["source"] == number)}
        parts.append(objective(out, only).metrics)
    return {name: torch.stack([torch.stack(part[name]) for part in parts]) for name in parts[0]}


@torch.no_grad()
def validate(run: Run, step: int | None = None) -> dict[str, Any]:
    """The objective's metrics on the fixed held-out set, each as sum over weight; `step`: those taken so far, for the event.

    With several sources, `sources` has the same of each, and the `weight` of its loss: tokens or pairs.
    """
    assert run.validation is not None
    sums: dict[str, Tensor] = {}
    held = run.validation.batch(0)
    if run.pipeline is not None:
        everything = [moved(b, run.machine.device) for b in held]
        sums, held = run.pipeline.validate(everything, run.machine.autocast(), len(run.sources)), []
    for one in held:
        batch = moved(one, run.machine.device)
        with run.machine.autocast():
            out = run.model(batch, run.objective.wants)
        for name, pairs in measured(run.objective, out, batch, len(run.sources)).items():
            sums[name] = sums.get(name, 0) + pairs
    # ranks along `data` add the same: the ratio stays
    whole = {name: pairs[0] for name, pairs in sums.items()}
    result: dict[str, Any] = ratios({name: global_sum(pair) for name, pair in whole.items()})
    if run.sources:
        parts = {name: global_sum(pairs[1:]) for name, pairs in sums.items()}
        result["sources"] = {
            source: ratios({name: pairs[number] for name, pairs in parts.items()})
            | {"weight": float(parts["loss"][number, 1])}
            for number, source in enumerate(run.sources)
            if parts["loss"][number, 1] > 0
        }
    run.emit({"event": "validation", **({} if step is None else {"step": step}), **result})
    return result


def ratios(sums: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(pair[0] / pair[1].clamp_min(1)) for name, pair in sums.items()}
