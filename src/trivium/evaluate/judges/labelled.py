"""What a judge says of replies that people have labelled: rows like all others, so that a stopped evaluation asks it once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from trivium import files
from trivium.evaluate.rows import (
    Journal,
    Outcome,
    Row,
    Verdict,
    judged,
    labels_of,
    need_judge,
    outcome_columns,
    short_hash,
)

TOGETHER = 16
"""Replies that a judge is asked about before its rows are written: what a kill can cost."""


class Shown(NamedTuple):
    """`texts`: what the judge is shown, the request first. `label`: what people said."""

    texts: tuple[str, ...]
    label: str


class Asked:
    """`journal`: where rows are kept; None: nowhere."""

    def __init__(self, suite: str = "", journal: Journal | None = None) -> None:
        self.suite, self.journal = labels_of(suite), journal

    def __call__(
        self,
        name: str,
        axis: str,
        shown: Sequence[Shown],
        judge: Callable[[Sequence[Any]], Sequence[Outcome | Verdict]],
    ) -> list[Row]:
        """A row for each of `shown`, in their order. What the journal holds of the judge called `name` is not asked again."""
        rows = [] if self.journal is None else self.journal.rows
        held = {
            row.item: row for row in rows if (row.suite, row.model, row.judge) == (self.suite, name, axis)
        }
        due = {_item(axis, one): one for one in shown if _item(axis, one) not in held}
        for start in range(0, len(due), TOGETHER):
            part = list(due.items())[start : start + TOGETHER]
            began = time.perf_counter()
            said = judge([one.texts for _, one in part])
            each = (time.perf_counter() - began) / len(part)
            made = [
                self._row(name, axis, *pair, verdict, each) for pair, verdict in zip(part, said, strict=True)
            ]
            held |= {row.item: row for row in made}
            if self.journal is not None:
                self.journal.write([[row] for row in made])
                need_judge(made)
        return [held[_item(axis, one)] for one in shown]

    def _row(
        self, name: str, axis: str, item: str, one: Shown, said: Outcome | Verdict, seconds: float
    ) -> Row:
        verdict = judged(axis, said)
        outcome, reason = outcome_columns(verdict.outcome)
        request, *replies = one.texts
        return Row(
            suite=self.suite, category=f"{axis}/{one.label}", cluster=item, item=item, model=name, attempt=0,
            prompt=files.canonical_json([{"role": "user", "content": request}]), template="", first_ids="",
            reply="\n\n".join(replies), judge=axis, outcome=outcome, reason=reason, score=verdict.score,
            weight=verdict.weight, seconds=seconds,
        )  # fmt: skip


def _item(axis: str, one: Shown) -> str:
    return f"{axis}/{short_hash(list(one.texts))}"
