"""Curves for the eye: few enough points to draw, with every spike still in them, smoothed if asked."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
POINTS = 1200
"""That are drawn at most: more than a screen has columns."""


def thinned(x: Floats, y: Floats, points: int = POINTS) -> tuple[Floats, Floats]:
    """At most `points` of a curve, in order: of each stretch of equal length its lowest and its highest value.

    x, y: (n,). Values that are not finite are left out, as there is nothing to draw.
    """
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    if len(x) <= points:
        return x, y
    edges = np.linspace(0, len(x), points // 2 + 1).astype(int)
    lows = [start + int(y[start:stop].argmin()) for start, stop in itertools.pairwise(edges)]
    highs = [start + int(y[start:stop].argmax()) for start, stop in itertools.pairwise(edges)]
    kept = np.unique(np.array([*lows, *highs]))
    return x[kept], y[kept]


def smoothed(y: Floats, weight: float) -> Floats:
    """The exponential mean with its start put right, as Adam's: at each place the mean of what came before, weights falling.

    weight: in [0, 1); 0 leaves the curve as it is. (n,) -> (n,).
    """
    if not weight or not len(y):
        return y
    mean, out, share = 0.0, np.empty_like(y), 0.0
    for place, value in enumerate(y):
        if np.isfinite(value):
            mean = weight * mean + (1 - weight) * value
            share = weight * share + (1 - weight)
        out[place] = mean / share if share else value
    return out
