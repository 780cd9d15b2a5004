"""The one place where randomness is derived: every seed is a hash of the recipe's seed and a path of names.

Hashing (instead of `seed + 1`) means that no two uses can collide by arithmetic, and that adding a use
somewhere never moves the numbers drawn anywhere else.
"""

from __future__ import annotations

import hashlib

import numpy as np


def derive(seed: int, *path: str | int) -> int:
    """A 63-bit seed for the use named by `path`, the same on every machine and Python version."""
    text = "/".join([str(seed), *map(str, path)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *path: str | int) -> np.random.Generator:
    """A NumPy generator for the use named by `path`."""
    return np.random.Generator(np.random.PCG64(derive(seed, *path)))


def unit(seed: int, key: str) -> float:
    """A number in [0, 1) that depends on nothing but (seed, key): used to split items into train and held-out."""
    return derive(seed, key) / 2**63


def seed_torch(seed: int, *path: str | int) -> None:
    """Seeds torch's own generators, which dropout draws from; everything else has a generator of its own."""
    import torch

    torch.manual_seed(derive(seed, *path))
