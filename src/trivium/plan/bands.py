"""Low, expected and high of one figure: what is multiplied and added instead of a bare number.

A band is meant to hold the truth in 80 of 100 cases. Causes of doubt that know nothing of each other are joined by their squares
in logarithms, as independent factors of a log-normal are: two bands of a factor 1.2 make one of 1.29, not of 1.44.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Band:
    low: float
    expected: float
    high: float

    def __post_init__(self) -> None:
        if not self.low <= self.expected <= self.high:
            raise ValueError(f"no band: {self.low} to {self.high} around {self.expected}")

    def __mul__(self, other: Band | float) -> Band:
        """Of positive figures; another band's doubt is taken as independent."""
        if not isinstance(other, Band):
            return Band(self.low * other, self.expected * other, self.high * other)
        expected = self.expected * other.expected
        if not expected:
            return Band(0.0, 0.0, 0.0)
        down = math.hypot(math.log(self.expected / self.low), math.log(other.expected / other.low))
        up = math.hypot(math.log(self.high / self.expected), math.log(other.high / other.expected))
        return Band(expected * math.exp(-down), expected, expected * math.exp(up))

    def inverse(self) -> Band:
        return Band(1 / self.high, 1 / self.expected, 1 / self.low)

    def __str__(self) -> str:
        return f"{self.low:.3g} to {self.high:.3g}, {self.expected:.3g} expected"


NONE = Band(0.0, 0.0, 0.0)


def exactly(value: float) -> Band:
    return Band(value, value, value)


def total(bands: Iterable[Band]) -> Band:
    """The sum of figures whose doubts are the same ones (utilisation is wrong for all stages alike): ends add."""
    found = list(bands)
    return Band(
        sum(band.low for band in found),
        sum(band.expected for band in found),
        sum(band.high for band in found),
    )
