"""Muon (Jordan et al. 2024) as torch has it, in the numbers that the device multiplies fastest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from trivium.cores import native_bf16


class Muon(torch.optim.Muon):
    """`torch.optim.Muon`, with its state and its update, but the iteration runs in float32 where bf16 is emulated (a third of
    the time there), and over all matrices of one shape at once."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            shapes: dict[tuple[torch.Size, torch.dtype], list[Tensor]] = {}
            for matrix in group["params"]:
                if matrix.grad is not None:
                    shapes.setdefault((matrix.shape, matrix.dtype), []).append(matrix)
            for matrices in shapes.values():
                self._step(group, matrices)

    def _step(self, group: dict[str, Any], matrices: list[Tensor]) -> None:
        """One step of matrices of one shape, with the learning rate of Liu et al. 2025, eq. 4: updates of AdamW's RMS."""
        gradients = [matrix.grad for matrix in matrices if matrix.grad is not None]
        for matrix in matrices:
            if "momentum_buffer" not in self.state[matrix]:
                self.state[matrix]["momentum_buffer"] = torch.zeros_like(matrix)
        averages = [self.state[matrix]["momentum_buffer"] for matrix in matrices]
        torch._foreach_lerp_(averages, gradients, 1 - group["momentum"])
        looked_ahead = torch._foreach_lerp(gradients, averages, group["momentum"])  # Nesterov
        updates = orthogonal(
            torch.stack(list(looked_ahead)), group["ns_coefficients"], group["ns_steps"], group["eps"]
        )
        torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
        size = 0.2 * max(matrices[0].shape) ** 0.5
        torch._foreach_add_(matrices, list(updates.to(matrices[0].dtype).unbind()), alpha=-group["lr"] * size)


def orthogonal(matrices: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """Nearly UVᵀ of each matrix USVᵀ, by Newton and Schulz's iteration with Jordan's quintic: (n, rows, columns), same shape.

    The singular values end in about 0.5 to 1.5, which trains as well as ones (Jordan et al. 2024).
    """
    a, b, c = coefficients
    x = matrices.bfloat16() if native_bf16(matrices.device.type) else matrices.float()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=eps)  # no singular value above 1
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
