"""Two plans side by side: what was changed between them, and which causes make the difference in time, money and memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from trivium.plan.project import Phase, Project
from trivium.recipe.lines import dotted
from trivium.recipe.models import Recipe

SHOWN = 3
"""Causes of a difference that are named."""
GIB = 2**30
LOST = "interruptions and start"


@dataclass(frozen=True)
class Pair:
    """A stage in both plans; None where a plan does not have it."""

    stage: str
    first: Phase | None
    other: Phase | None

    @property
    def ratio(self) -> float | None:
        """Hours of the other over those of the first, both as expected."""
        first, other = (one.hours.expected if one else None for one in (self.first, self.other))
        return _over(other, first)

    @property
    def dollars(self) -> float | None:
        """The same of US dollars."""
        first, other = (
            one.dollars.expected if one and one.dollars else None for one in (self.first, self.other)
        )
        return _over(other, first)


def _over(other: float | None, first: float | None) -> float | None:
    return other / first if other and first else None


def pairs(first: Project, other: Project) -> list[Pair]:
    """Stages that take time in one of them, in the order of the first plan, then of the other."""
    ones, others = ({phase.stage: phase for phase in plan.phases} for plan in (first, other))
    found = [Pair(name, ones.get(name), others.get(name)) for name in dict.fromkeys([*ones, *others])]
    return [pair for pair in found if any(one and one.hours.expected for one in (pair.first, pair.other))]


def changed(first: Recipe, other: Recipe) -> list[str]:
    """Fields that the recipes do not share: `base.parallel.tensor: 1 -> 8`."""
    ones, others = (dict(_flat(recipe.model_dump(mode="json")["stages"])) for recipe in (first, other))
    return [
        f"{dotted(path)}: {ones.get(path, 'nothing')} -> {others.get(path, 'nothing')}"
        for path in dict.fromkeys([*ones, *others])
        if ones.get(path) != others.get(path)
    ]


def _flat(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    items = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    )
    if not items:
        yield path, value
        return
    for key, inner in items:
        yield from _flat(inner, (*path, key))


def hours(phase: Phase) -> dict[str, float]:
    """The expected hours of a stage by cause; they add up to all of them."""
    known = {doubt.name: doubt.band.expected for doubt in phase.doubts}
    spent = {
        cause: seconds / 3600 / known["decode" if cause in ("generation", "writing") else "practice"]
        for cause, seconds in phase.seconds.items()
    }
    return {**spent, LOST: phase.hours.expected - sum(spent.values())}


def _largest(first: Mapping[str, float], other: Mapping[str, float]) -> list[tuple[str, float]]:
    """What differs most, by cause: other less first; what is less than a fiftieth of the largest is left out."""
    found = {
        cause: other.get(cause, 0.0) - first.get(cause, 0.0) for cause in dict.fromkeys([*first, *other])
    }
    ordered = sorted(found.items(), key=lambda pair: -abs(pair[1]))[:SHOWN]
    return [(cause, more) for cause, more in ordered if abs(more) > abs(ordered[0][1]) / 50]


def told(pair: Pair, first: Project, other: Project) -> str:
    """Why a stage takes what it takes in the other plan."""
    one, two = pair.first, pair.other
    if one is None or two is None or not one.hours.expected or not two.hours.expected:
        missing = "first" if one is None or not one.hours.expected else "other"
        return f"{pair.stage}: not counted in the {missing} plan"
    parts = []
    ratio = two.hours.expected / one.hours.expected
    if abs(ratio - 1) < 0.005:
        parts.append("takes as long")
    else:
        causes = ", ".join(f"{cause} {more:+,.3g} h" for cause, more in _largest(hours(one), hours(two)))
        parts.append(f"time x {ratio:.2f} ({causes})")
    parts += [_money(one, two, ratio, first, other), _lies(one, two), _holds(one, two)]
    return f"{pair.stage}: " + "; ".join(part for part in parts if part)


def _money(one: Phase, two: Phase, time: float, first: Project, other: Project) -> str:
    if one.dollars is None or two.dollars is None:
        return ""
    prices = [plan.cluster.accelerator.price for plan in (first, other)]
    price = prices[1].expected / prices[0].expected if prices[0] and prices[1] else 1.0
    devices = two.devices / one.devices
    ratio = two.dollars.expected / one.dollars.expected
    if abs(ratio - 1) < 0.005 and abs(time - 1) < 0.005:
        return ""
    return f"dollars x {ratio:.2f} (time x {time:.2f}, devices x {devices:.4g}, price of one x {price:.2f})"


def _lies(one: Phase, two: Phase) -> str:
    if one.found is None or two.found is None or str(one.found.winner) == str(two.found.winner):
        return ""
    return f"lies as {two.found.winner} instead of {one.found.winner}"


def _holds(one: Phase, two: Phase) -> str:
    if one.found is None or two.found is None:
        return ""
    held, holds = one.found.winner.memory, two.found.winner.memory
    if abs(holds.total - held.total) < 0.005 * held.total:
        return ""
    causes = ", ".join(
        f"{cause} {more / GIB:+,.2g} GiB" for cause, more in _largest(held.parts(), holds.parts())
    )
    return f"a device holds {holds.total / GIB:,.3g} GiB instead of {held.total / GIB:,.3g} ({causes})"
