"""Held-out questions about a text: does a greedy reply say what the text says? By content words, in whatever form they stand.

overlap: F1 of the content words of reply and answer (`verify.grounded`). answered: it is at least one half, a bound chosen and
not measured against people. A cluster is what the question is about.
"""

from __future__ import annotations

from pathlib import Path

from trivium.evaluate.asked import Answer, Item, SuiteKind, heldout, some, written
from trivium.evaluate.rows import HIT, MISS, Verdict, told
from trivium.recipe.suites import Questions
from trivium.verify.grounded import grounded

ENOUGH = 0.5


def items(suite: Questions, folder: Path | None) -> list[Item]:
    return some(heldout(suite, folder, lambda record: "answer" in record["meta"]), suite)


def judge(item: Item, answer: Answer) -> list[Verdict]:
    assert answer.reply is not None
    shared = grounded(item.record, answer.reply.text)
    return [
        told("answered", shared >= ENOUGH),
        Verdict("overlap", HIT if shared >= ENOUGH else MISS, shared),
    ]


SUITE = SuiteKind(items, written, judge)
