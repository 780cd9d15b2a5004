"""The loss on what is held out: a fixed set, the same at every look; of all of it, and of each source."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trivium.train.distributed import global_sum
from trivium.train.run import Run, measured, moved


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
    for rows in held:
        batch = moved(rows, run.machine.device)
        with run.machine.autocast():
            out = run.model(batch, run.objective.wants)
        for name, pairs in measured(run.objective, out, batch, len(run.sources)).items():
            sums[name] = sums.get(name, 0) + pairs
    # ranks along `data` add the same: the ratio stays
    joint = {name: pairs[0] for name, pairs in sums.items()}
    result: dict[str, Any] = ratios({name: global_sum(pair) for name, pair in joint.items()})
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
