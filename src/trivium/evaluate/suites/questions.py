"""Held-out questions about a text: does a greedy reply say what the text says? By content words, in whatever form they stand.

overlap: F1 of the content words of reply and answer (`verify.grounded`) without those of the question, since who says them again
has said nothing yet. answered: it is at least one half, a bound chosen and not measured against people. A cluster is what the
question is about.
"""

from __future__ import annotations

from pathlib import Path

from trivium.evaluate.asked import Answer, Item, SuiteKind, heldout, some, written
from trivium.evaluate.rows import HIT, MISS, Verdict, told
from trivium.recipe.benchmarks import Questions
from trivium.verify.grounded import content, overlap

ENOUGH = 0.5


def items(suite: Questions, folder: Path | None) -> list[Item]:
    return some(heldout(suite, folder, lambda record: "answer" in record["meta"]), suite)


def judge(item: Item, answer: Answer) -> list[Verdict]:
    assert answer.reply is not None
    shared = adds(item.messages[-1]["content"], answer.reply.text, item.record["meta"]["answer"])
    return [
        told("answered", shared >= ENOUGH),
        Verdict("overlap", HIT if shared >= ENOUGH else MISS, shared),
    ]


def adds(question: str, reply: str, wanted: str) -> float:
    """How much of what a reply adds to the question is what the answer adds to it, and the other way round, 0 to 1."""
    asked = set(content(question))
    said, expected = ([word for word in content(text) if word not in asked] for text in (reply, wanted))
    return overlap(said, expected)


SUITE = SuiteKind(items, written, judge)
