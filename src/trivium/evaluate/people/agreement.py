"""How far raters agree beyond chance: Krippendorff's alpha for nominal values, with any number of raters and gaps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

from trivium.evaluate.people.votes import Vote


def alpha(units: Iterable[Sequence[Hashable]]) -> float | None:
    """1 - observed / expected disagreement over units, each the values that raters gave it (Krippendorff 2011).

    1: they agree always; 0: as often as chance would. None where nothing was rated twice, or all values are the same one: then
    chance would agree always, too, and nothing can be said.
    """
    totals: Counter[Hashable] = Counter()
    observed = 0.0
    for values in units:
        if len(values) < 2:
            continue
        counts = Counter(values)
        totals.update(counts)
        same = sum(n * (n - 1) for n in counts.values())
        observed += (len(values) * (len(values) - 1) - same) / (len(values) - 1)
    pairable = sum(totals.values())
    expected = pairable**2 - sum(n * n for n in totals.values())
    if not expected:
        return None
    return 1 - (pairable - 1) * observed / expected


def agreement(votes: Iterable[Vote]) -> float | None:
    """Alpha over tasks. What counts is the model that was preferred, not the side."""
    units: dict[str, list[str]] = {}
    for vote in votes:
        units.setdefault(vote.task, []).append(vote.winner or vote.choice)
    return alpha(units.values())
