"""The model's reply and the baseline's to the same held-out prompts, side by side before a language model that judges.

preferred: 1 where the model's own is better, 0.5 for a tie, 0 where the baseline's is. Every pair is judged in both orders, and a
verdict that hangs on the order is undecided. Replies that are the same are a tie that needs no judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from trivium.evaluate.asked import Answer, Asks, Item, SuiteKind
from trivium.evaluate.rows import Undecided, Verdict
from trivium.evaluate.suites.preferences import items
from trivium.recipe.suites import Pairwise


def ask(subject: Asks, items: Sequence[Item], suite: Pairwise, baseline: Asks | None) -> list[Answer]:
    """Greedy replies. Where the baseline has none, there is nothing to compare with."""
    own = subject.replies(items, suite.max_new_tokens)
    if baseline is None:
        return [replace(answer, failed="there is no baseline to compare with") for answer in own]
    theirs = own if baseline is subject else baseline.replies(items, suite.max_new_tokens)
    return [
        replace(
            answer,
            failed=answer.failed or (f"the baseline: {other.failed}" if other.failed else ""),
            beside=other.reply,
        )
        for answer, other in zip(own, theirs, strict=True)
    ]


def judge(item: Item, answer: Answer) -> list[Verdict]:
    """Before the judge of the recipe: it takes the verdict."""
    return [Verdict("preferred", Undecided("no judge was asked"))]


SUITE = SuiteKind(items, ask, judge)
