"""loss(N, D) = E + A / N^alpha + B / D^beta fitted to runs, with intervals from resampling them (no torch).

For each pair of exponents on a grid the other three are a linear least-squares problem, so there is no start to choose and no
minimum to miss. Errors are relative: weights are 1 / loss. Resampled runs (Efron 1979) give the intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trivium.errors import DataError
from trivium.plan.scaling import Law
from trivium.seeds import generator

EXPONENTS = np.linspace(0.05, 1.2, 24)
RESAMPLES = 200
LEAST = 5
"""Runs of different size that five numbers need."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Point:
    """A run: parameters, tokens, and the held-out loss that it ended with, nats a token."""

    parameters: float
    tokens: float
    loss: float


@dataclass(frozen=True)
class Fit:
    """The law of some points, and those of their resamples."""

    law: Law
    resamples: tuple[Law, ...]

    def predict(self, parameters: float, tokens: float) -> tuple[float, float, float]:
        """The loss of another run: low, expected, high (80% of the resamples)."""
        losses = [law.loss(parameters, tokens) for law in self.resamples]
        expected = self.law.loss(parameters, tokens)
        low, high = (float(np.quantile(losses, q)) for q in (0.1, 0.9))
        return min(low, expected), expected, max(high, expected)


def fit(points: Sequence[Point], seed: int = 0) -> Fit:
    """DataError where there are fewer points than numbers to find."""
    sizes, tokens = ({getattr(point, what) for point in points} for what in ("parameters", "tokens"))
    if len(points) < LEAST or min(len(sizes), len(tokens)) < 2:
        raise DataError(
            f"{len(points)} runs of {len(sizes)} sizes and {len(tokens)} lengths do not tell five numbers",
            fix=f"at least {LEAST} runs, two sizes and two lengths of training",
        )
    if any(not (point.parameters > 0 and point.tokens > 0 and 0 < point.loss < np.inf) for point in points):
        raise DataError("a run has no size, no tokens or no loss", fix="leave it out, or run it again")
    values = np.array([[point.parameters, point.tokens, point.loss] for point in points])
    draws = generator(seed, "resamples")
    found: list[Law] = []
    while len(found) < RESAMPLES:
        chosen = values[draws.integers(0, len(values), len(values))]
        if len(np.unique(chosen[:, 0])) > 1 and len(np.unique(chosen[:, 1])) > 1:
            found.append(_law(chosen))
    return Fit(_law(values), tuple(found))


def _law(values: Floats) -> Law:
    """The best of the grid: `values` (runs, 3) of parameters, tokens and loss."""
    size, tokens, loss = values.T
    alpha, beta = (grid.ravel() for grid in np.meshgrid(EXPONENTS, EXPONENTS))
    # scaled to the middle of the runs, so that the three columns are of one size
    middle, length = np.exp(np.log(size).mean()), np.exp(np.log(tokens).mean())
    columns = (
        np.stack(
            (
                np.ones((len(alpha), len(loss))),
                (size / middle) ** -alpha[:, None],
                (tokens / length) ** -beta[:, None],
            ),
            axis=-1,
        )
        / loss[None, :, None]
    )
    square = columns.transpose(0, 2, 1) @ columns + 1e-9 * np.eye(3)
    terms = np.linalg.solve(square, columns.sum(1)[..., None])[..., 0]
    errors = ((columns @ terms[..., None])[..., 0] - 1) ** 2
    best = int(np.where((terms >= 0).all(1), errors.sum(1), np.inf).argmin())
    floor, a, b = terms[best].clip(0)
    first, second = float(alpha[best]), float(beta[best])
    return Law("fitted", float(floor), float(a * middle**first), float(b * length**second), first, second)
