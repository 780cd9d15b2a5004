"""Held-out questions that end in an answer: is the reply's final answer the record's?

The final answer stands behind the last mark (`Answer:`, `the answer is`, `####`, `\\boxed{}`), else it is all of the reply
(`verify.answers`). Answers are compared as texts and numbers, and by algebra with math-verify: 1/2 is 0.5. A comparison that did
not come to its end says nothing.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from trivium.evaluate.asked import Answer, Item, SuiteKind, heldout, some, told_of_all, written
from trivium.evaluate.rows import Undecided, Verdict
from trivium.recipe.benchmarks import Answers
from trivium.verify import named, named_identity
from trivium.verify.answers import reference


def items(suite: Answers, folder: Path | None) -> list[Item]:
    found = heldout(suite, folder, lambda record: reference(record) is not None)
    return some([Item(**{**vars(one), "record": {**one.record, "by": suite.by}}) for one in found], suite)


def identity(suite: Answers, folder: Path) -> dict[str, Any]:
    return named_identity(suite.by)


def judge(item: Item, answer: Answer) -> list[Verdict]:
    assert answer.reply is not None
    same = _verifier(item.record["by"])
    failures = getattr(same, "failures", {})
    before = sum(failures.values())
    right = same(item.record, answer.reply.text) == 1
    if sum(failures.values()) > before:
        return [Verdict("right", Undecided("the two answers could not be compared in time"))]
    return [told_of_all("right", right, answer.reply)]


_verifier = lru_cache(named)
"""One process compares all formulas."""


SUITE = SuiteKind(items, written, judge, identity)
