"""What one training run is, and the few things that the loop and those around it (progress, recovery, validation) share."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Many
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from trivium.model.transformer import Transformer
from trivium.recipe.training import TrainingStage
from trivium.train.machine import Machine
from trivium.types import Batch, Batches, Emit, Objective, Output

State = dict[str, Any]
"""What a checkpoint holds beside tensors: `step` (optimizer steps taken), `position` (the batch that comes next; ahead of
`step` by the batches that were left out), `guard`, `curve`, `samples`, `compiled`, `before`, `best`."""


class Passes(Protocol):
    """Runs the forward and backward passes of a step where layers lie on several ranks (`parallel.pipeline`)."""

    def step(
        self, micro: Many[Batch], weight: Tensor, autocast: AbstractContextManager[Any]
    ) -> dict[str, Tensor]:
        """Leaves the step's gradients in the parameters; returns the metrics, (sum, weight) each."""

    def validate(
        self, micro: Many[Batch], autocast: AbstractContextManager[Any], sources: int = 0
    ) -> dict[str, Tensor]:
        """`measured` of batches that need no gradient."""


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
    pipeline: Passes | None = None  # where layers lie on several ranks
    validation: Batches | None = None  # a fixed held-out set; batch(0) is all of it
    sources: tuple[str, ...] = ()  # what its `source` counts
    sample: Callable[[], list[dict[str, str]]] | None = None  # what the model says to a few prompts
    flops_per_step: float = (
        0.0  # over all ranks, from what the data is like: whether to compile is decided by it
    )
    filled: float = 1.0  # share of the rows' places that uncompiled passes compute
    live_flops: float = 0.0  # of these, what making a batch takes (types.LiveBatches)
    work: Callable[[int, int], float] | None = None  # see `Progress.sees`
    peak: float = 1.0  # measured matmul peak, FLOP/s


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
