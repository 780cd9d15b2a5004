"""What a plan cannot know, as bands with their sources: `doubts.yaml`, beside this file."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from trivium.plan.bands import Band


@dataclass(frozen=True)
class Doubt:
    """A factor that is known as a band only."""

    name: str
    band: Band
    what: str
    source: str

    def __str__(self) -> str:
        low, expected, high = (
            f"{value:.3g}" for value in (self.band.low, self.band.expected, self.band.high)
        )
        return f"{self.name} {low} – {expected} – {high}: {self.what} ({self.source})"


@cache
def doubts() -> dict[str, Doubt]:
    """By name."""
    loaded = yaml.safe_load((Path(__file__).parent / "doubts.yaml").read_text(encoding="utf-8"))
    return {
        name: Doubt(name, Band(*map(float, entry["band"])), entry["what"], entry["source"])
        for name, entry in loaded.items()
    }
