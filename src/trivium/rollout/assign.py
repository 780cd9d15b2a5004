"""Which arm a unit is answered by: a pure function of (salt, unit, weights), so it needs no memory and cannot be lost."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

STABLE = "stable"
"""The arm that takes whatever the others do not; it also takes the excluded units."""
CANDIDATE = "candidate"
"""What a plan's only candidate is called, if it gives it no name."""


def position(salt: str, unit: str) -> float:
    """A unit's place in [0, 1): uniform over units, independent between salts."""
    digest = hashlib.sha256(f"{salt}\0{unit}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def arm_of(
    salt: str,
    unit: str,
    weights: Mapping[str, float],
    slots: Mapping[str, float] | None = None,
) -> str:
    """The arm of `unit`. `weights`: share of the units that each arm but stable takes, in the plan's order.

    Each arm has a slot of [0, 1), as wide as the largest share that it will ever take (`slots`; None: what it takes now), side by
    side in that order, and takes the beginning of it; stable takes the rest. So raising any arm's weight moves nobody out of any
    arm but stable, and lowering it moves nobody in. A weight of 1 takes everybody. Another experiment with another salt is
    independent of this one.
    """
    place, begin = position(salt, unit), 0.0
    for arm, weight in weights.items():
        if weight >= 1 or 0 <= place - begin < weight:
            return arm
        begin += (weights if slots is None else slots)[arm]
    return STABLE


@dataclass(frozen=True)
class Split:
    """How units fall to the arms now."""

    weights: Mapping[str, float] = field(default_factory=dict)
    """The share of the units that falls to each candidate, also to one that is out."""
    out: frozenset[str] = frozenset()
    """Candidates that were rolled back. Stable answers their units, which prove nothing about the others: they have met it."""

    @property
    def share(self) -> float:
        """Of the units, what candidates answer."""
        return math.fsum(weight for name, weight in self.weights.items() if name not in self.out)

    def without(self, names: Collection[str]) -> Split:
        return replace(self, out=self.out | set(names))

    def asks(self, arm: str) -> bool:
        """Whether a candidate is asked at all, be it for the copies of a shadow stage."""
        return arm in self.weights and arm not in self.out

    def arm(self, salt: str, unit: str, slots: Mapping[str, float]) -> tuple[str, str | None]:
        """Who answers a unit, and instead of which candidate that is out."""
        arm = arm_of(salt, unit, self.weights, slots=slots)
        return (STABLE, arm) if arm in self.out else (arm, None)


def fault(weights: Mapping[str, float]) -> str | None:
    """Why weights are none: one that is no share, more than 1 together, or one of the stable arm."""
    wrong = {arm: weight for arm, weight in weights.items() if not 0 <= weight <= 1}
    total = math.fsum(weights.values())
    if STABLE in weights:
        return "the stable arm has no weight of its own: it takes what the others leave"
    if wrong:
        return ", ".join(f"{arm} has weight {weight}" for arm, weight in wrong.items())
    return f"the weights of the candidates add up to {total:g}" if total > 1 + 1e-9 else None


def beside_stable(weights: Mapping[str, float], arm: str) -> float:
    """The share of `arm` among the units that fall to it or to stable: w / (w + w0), with w0 what all arms leave to stable."""
    weight = weights.get(arm, 0.0)
    both = weight + max(0.0, 1 - math.fsum(weights.values()))
    return weight / both if both > 0 else 0.0
