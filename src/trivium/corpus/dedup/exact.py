"""Copies: documents with the same hashes, of which the best one stays."""

from __future__ import annotations

import numpy as np


def copies(alive: np.ndarray, rank: np.ndarray, *hashes: np.ndarray) -> np.ndarray:
    """(N,) bool: living documents whose hashes are those of a better living one.

    alive (N,) bool; rank (N,) int64; each of hashes (N,).
    """
    places = np.flatnonzero(alive)
    order = places[np.lexsort((rank[places], *(column[places] for column in reversed(hashes))))]
    same = np.ones(max(0, len(order) - 1), bool)
    for column in hashes:
        same &= column[order[1:]] == column[order[:-1]]
    result = np.zeros(len(alive), bool)
    result[order[1:][same]] = True
    return result
