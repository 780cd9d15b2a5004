"""Which arm a unit is answered by: a pure function of (salt, unit, weights), so it needs no memory and cannot be lost."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping

from trivium.errors import RecipeError

STABLE = "stable"
"""The arm that takes whatever the others do not; it also takes the excluded units."""


def position(salt: str, unit: str) -> float:
    """A unit's place in [0, 1): uniform over units, independent between salts."""
    digest = hashlib.sha256(f"{salt}\0{unit}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def arm_of(
    salt: str, unit: str, weights: Mapping[str, float], excluded: Collection[str] = frozenset()
) -> str:
    """The arm of `unit`. `weights`: share of the units that each arm but stable takes, in the plan's order.

    Arms lie side by side from 0 in that order and stable takes the rest, so raising the first arm's weight moves nobody out
    of it, and lowering it moves nobody in. Another experiment with another salt is independent of this one.
    """
    if unit in excluded:
        return STABLE
    place, upper = position(salt, unit), 0.0
    for arm, weight in weights.items():
        upper += weight
        if place < upper:
            return arm
    return STABLE


def check_weights(weights: Mapping[str, float]) -> None:
    """RecipeError for weights that are no shares or add up to more than 1, or that name the stable arm."""
    wrong = {
        arm: weight for arm, weight in weights.items() if not (math.isfinite(weight) and 0 <= weight <= 1)
    }
    total = math.fsum(weights.values())
    if STABLE in weights:
        what = "the stable arm has no weight of its own: it takes what the others leave"
    elif wrong:
        what = ", ".join(f"{arm} has weight {weight}" for arm, weight in wrong.items())
    elif total > 1 + 1e-9:
        what = f"the weights add up to {total:g}"
    else:
        return
    raise RecipeError(
        what, where="weights", fix="give each candidate a share from 0 to 1, together at most 1"
    )
