"""Curves for the eye: few enough points to draw, with every spike still in them, smoothed if asked."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
POINTS = 1200
"""That are drawn at most: more than a screen has columns."""
NOTHING = 1e-12
"""A weight that no longer shows."""


def thinned(x: Floats, y: Floats, points: int = POINTS) -> tuple[Floats, Floats]:
    """At most `points` of a curve, in order: of each stretch of equal length its lowest and its highest value.

    x, y: (n,). Values that are not finite are left out, as there is nothing to draw.
    """
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    if len(x) <= points:
        return x, y
    edges = np.linspace(0, len(x), points // 2 + 1).astype(int)
    kept = np.union1d(_first(y, np.minimum, edges), _first(y, np.maximum, edges))
    return x[kept], y[kept]


def _first(y: Floats, best: np.ufunc, edges: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the best value of each stretch stands first."""
    there = np.flatnonzero(y == np.repeat(best.reduceat(y, edges[:-1]), np.diff(edges)))
    return there[np.unique(np.searchsorted(edges, there, "right"), return_index=True)[1]]


def smoothed(y: Floats, weight: float) -> Floats:
    """The exponential mean with its start put right, as Adam's: at each place the mean of what came before, weights falling.

    weight: in [0, 1); 0 leaves the curve as it is. (n,) -> (n,).
    """
    known = np.isfinite(y)
    if not weight or not known.any():
        return y
    mean, apart = (1 - weight) * y[known], 1
    while (
        apart < len(mean) and weight**apart > NOTHING
    ):  # a scan: after each pass, means of twice as many values
        mean[apart:] += weight**apart * mean[:-apart]
        apart *= 2
    mean /= 1 - weight ** np.arange(1.0, len(mean) + 1)
    last = np.cumsum(known) - 1
    return np.where(last >= 0, mean[last], y)
