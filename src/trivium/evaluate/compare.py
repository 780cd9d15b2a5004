"""Two evaluations of the same items: what changed, item by item, both ways. A function of the two tables alone.

Items are paired by suite, item, attempt and judge. One that was put to the two models in other words is no pair: it is counted
apart, as is one that only one of the two was asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from trivium.errors import ArtifactError
from trivium.evaluate import rows as table
from trivium.evaluate.metrics import Paired, evidence
from trivium.evaluate.rows import Row
from trivium.recipe.suite import Metric

Key = tuple[str, str, int, str]


@dataclass(frozen=True)
class Shift:
    """What one judge of a suite says of the second model minus what it says of the first, on the items that both were asked.

    `low`, `high`: 95% interval by cluster. `p`: McNemar's exact one for independent items of a share, else by flipping clusters.
    `gained`: items with a higher score (a miss that became a hit), `lost`: with a lower one.
    """

    suite: str
    category: str
    judge: str
    before: float | None
    after: float | None
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    items: int
    gained: int
    lost: int
    undecided: int
    """Items on which one of the two is undecided: in no difference."""


@dataclass(frozen=True)
class Change:
    """One item on which a judge says something else of the second model."""

    suite: str
    category: str
    item: str
    attempt: int
    judge: str
    before: str
    after: str
    score_before: float | None
    score_after: float | None
    prompt: str
    reply_before: str | None
    reply_after: str | None


@dataclass(frozen=True)
class OtherJudge:
    """A question that another judge answered in the second evaluation. `before`, `after`: who; the rules, where it names none."""

    suite: str
    axis: str
    before: str
    after: str


@dataclass(frozen=True)
class Comparison:
    before: str
    after: str
    shifts: tuple[Shift, ...]
    changes: tuple[Change, ...]
    one_sided: int
    """Rows of one of the two tables that the other has no row for."""
    reworded: int
    """Rows of items that were put to the two in other words."""
    other_judges: tuple[OtherJudge, ...] = ()
    """What two judges looked at, one each: a difference would be the judges', so none is given."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


RULES = "rules"


class Evaluation(NamedTuple):
    """What an evaluation found of the model that it tested. `judges`: suite -> axis -> who took it from the rules."""

    model: str
    rows: list[Row]
    judges: Mapping[str, Mapping[str, str]]


def tested(folder: Path) -> Evaluation:
    """ArtifactError if there are no rows, or it is not said of which model they are."""
    rows = table.read(folder)
    try:
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        name, judges = str(results["tested"]), dict(results.get("judges", {}))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ArtifactError(
            "this evaluation does not say which model it tested",
            where=str(folder / "results.json"),
            fix="give the folder or link of an evaluate stage, such as runs/quickstart/safety",
        ) from None
    return Evaluation(name, [row for row in rows if row.model == name], judges)


def compare_evaluations(before: Evaluation, after: Evaluation) -> Comparison:
    """As `compare`, without what another judge has looked at."""
    found = []
    for suite in sorted({row.suite for row in before.rows} & {row.suite for row in after.rows}):
        one, other = before.judges.get(suite, {}), after.judges.get(suite, {})
        for axis in sorted(one.keys() | other.keys()):
            if (a := one.get(axis, RULES)) != (b := other.get(axis, RULES)):
                found.append(OtherJudge(suite, axis, a, b))
    left_out = {(one.suite, one.axis) for one in found}
    first, second = (
        [row for row in side.rows if (row.suite, row.judge) not in left_out] for side in (before, after)
    )
    return replace(compare(first, second, (before.model, after.model)), other_judges=tuple(found))


def compare(before: Sequence[Row], after: Sequence[Row], names: tuple[str, str] = ("A", "B")) -> Comparison:
    """`before` and `after`: rows of one model each."""
    first, second = _keyed(before), _keyed(after)
    shared = [key for key in first if key in second]
    same = [key for key in shared if first[key].prompt == second[key].prompt]
    pairs = {key: (first[key], second[key]) for key in sorted(same)}
    return Comparison(
        *names,
        shifts=tuple(_shifts(pairs)),
        changes=tuple(_changes(pairs)),
        one_sided=len(first) + len(second) - 2 * len(shared),
        reworded=len(shared) - len(same),
    )


def _keyed(rows: Sequence[Row]) -> dict[Key, Row]:
    return {(row.suite, row.item, row.attempt, row.judge): row for row in rows}


def _shifts(pairs: Mapping[Key, tuple[Row, Row]]) -> Iterator[Shift]:
    groups: dict[tuple[str, str, str], list[tuple[Row, Row]]] = {}
    for one, other in pairs.values():
        groups.setdefault((one.suite, one.category, one.judge), []).append((one, other))
    for (suite, category, judge), rows in sorted(groups.items()):
        metric = _metric(judge, [row for pair in rows for row in pair])
        sides = []
        for side, model in enumerate(("before", "after")):
            found = evidence(metric, suite, [replace(pair[side], model=model) for pair in rows], model, None)
            assert found is not None
            sides.append(found)
        gap = Paired(sides[1], sides[0]).difference()
        yield Shift(
            suite, category, judge, sides[0].estimate().value, sides[1].estimate().value,
            gap.value, gap.low, gap.high, gap.p, gap.items, gap.gained, gap.lost, gap.undecided,
        )  # fmt: skip


def _metric(judge: str, rows: Sequence[Row]) -> Metric:
    """A share where the judge only says yes or no, else its scores' sum over their weights' sum."""
    decided = [row for row in rows if row.decided]
    if all(row.score is None or row.score == float(row.outcome == "hit") for row in decided):
        return Metric(judge, judge, judge, "share")
    return Metric(judge, judge, judge, "ratio", bounds=None)


def _changes(pairs: Mapping[Key, tuple[Row, Row]]) -> Iterator[Change]:
    for one, other in pairs.values():
        if one.outcome != other.outcome:
            yield Change(
                one.suite, one.category, one.item, one.attempt, one.judge, one.outcome, other.outcome,
                one.score, other.score, table.prompt_text(one), one.reply, other.reply,
            )  # fmt: skip
