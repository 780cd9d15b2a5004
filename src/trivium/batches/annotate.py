"""What is not the live model's output is data: the frozen reference's log-probabilities, computed once and kept on disk."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from trivium.batches.feedback import Feedback
from trivium.batches.rows import Fixed, Row
from trivium.files import atomic_path
from trivium.model.transformer import Transformer
from trivium.objectives.sequence import row_log_probs


class Referred(Protocol):
    """Items of two rows, the one of label 1 first."""

    ref_logp: NDArray[np.float32] | None

    @property
    def count(self) -> int: ...
    def item(self, index: int) -> Sequence[Row]: ...


def response_log_probs(
    model: Transformer,
    pairs: Referred,
    *,
    autocast: AbstractContextManager[Any],
    device: str = "cpu",
    micro: int = 16,
) -> NDArray[np.float32]:
    """Log-probability of every reply under `model`, summed over its tokens: (pairs, 2) float32, chosen first.

    Computed as training computes them (with gradients on, activations forgotten), so that in bf16, too, the policy of the first
    step is its own reference and its loss ln 2.
    """
    sums, kept = [], model.recompute
    model.recompute = True
    with autocast, torch.enable_grad():
        for batch in Fixed(pairs.count, pairs.item, micro).batch(0):
            moved: Any = {name: tensor.to(device) for name, tensor in batch.items()}  # type: ignore[attr-defined]
            sums.append(row_log_probs(model(moved, {"logp"}), moved).detach().float().cpu())
    model.recompute = kept
    return torch.cat(sums).view(-1, 2).numpy()


def annotate_reference(
    pairs: Referred,
    reference: Transformer,
    path: Path,
    *,
    autocast: AbstractContextManager[Any],
    device: str = "cpu",
) -> None:
    """Puts the reference's log-probabilities into `pairs`, from `path` if they were computed before."""
    if not path.exists():
        values = response_log_probs(reference, pairs, autocast=autocast, device=device)
        with atomic_path(path) as temporary:
            save_file({"ref_logp": values}, temporary)
    pairs.ref_logp = load_file(path)["ref_logp"]


@torch.no_grad()
def annotate_feedback(
    feedback: Feedback,
    reference: Transformer,
    path: Path,
    *,
    autocast: AbstractContextManager[Any],
    device: str = "cpu",
    micro: int = 16,
) -> None:
    """The same for single replies: (items, 2) float32, the reply behind its own prompt and behind the next one's."""
    if not path.exists():
        columns = []
        with autocast:
            for item in (feedback.item, feedback.other):
                sums = []
                for batch in Fixed(feedback.count, item, micro).batch(0):
                    moved: Any = {name: tensor.to(device) for name, tensor in batch.items()}  # type: ignore[attr-defined]
                    sums.append(row_log_probs(reference(moved, {"logp"}), moved).float().cpu())
                columns.append(torch.cat(sums))
        with atomic_path(path) as temporary:
            save_file({"ref_logp": torch.stack(columns, 1).numpy()}, temporary)
    feedback.ref_logp = load_file(path)["ref_logp"]
