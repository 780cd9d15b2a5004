"""What an item is known by, and the split that follows from it: a hash of the item decides, in every data stage alike.

What is held out is decided by the item's key alone, before anything is mixed, so two stages that read the same source never
disagree about it.
"""

from __future__ import annotations

import hashlib

from trivium import seeds

SPLIT_SEED = 1729
"""The one constant of the split: shared by all data stages of all recipes."""


def normalise(text: str) -> str:
    """White space collapsed, ends stripped: the form in which texts are compared."""
    return " ".join(text.split())


def key_of(text: str) -> str:
    """The identity of an item: a hash of its normalised text, so that equal texts fall in the same split."""
    return hashlib.sha256(normalise(text).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def split(key: str) -> float:
    """A number in [0, 1): the item is held out where it is below the share to hold out."""
    return seeds.unit(SPLIT_SEED, key)
