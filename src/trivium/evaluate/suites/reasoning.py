"""Held-out reasoning tasks: is the answer that a greedy reply ends in the one that reasoning-gym's scorer takes?"""

from __future__ import annotations

from pathlib import Path

from trivium.demo.reasoning import correct
from trivium.evaluate.asked import Answer, Item, SuiteKind, heldout, some, told_of_all, written
from trivium.evaluate.rows import Verdict
from trivium.recipe.benchmarks import Reasoning


def items(suite: Reasoning, folder: Path | None) -> list[Item]:
    tasks = heldout(
        suite, folder, lambda record: "entry" in record["meta"], lambda record: record["meta"]["task"]
    )
    return some(tasks, suite)


def judge(item: Item, answer: Answer) -> list[Verdict]:
    assert answer.reply is not None
    return [told_of_all("correct", correct(answer.reply.text, item.record["meta"]), answer.reply)]


SUITE = SuiteKind(items, written, judge)
