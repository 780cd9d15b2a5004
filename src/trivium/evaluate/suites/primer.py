"""Held-out questions of the primer, answered as `trivium chat` would: is the content right, and is it honest?

`demo.primer.marks` judges by what is known of every item. A name is asked about once; the held-out phrasings take turns, and are
what the names are clustered by.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trivium.demo.primer import marks
from trivium.evaluate.asked import Answer, Asks, Item, SuiteKind, heldout, some
from trivium.evaluate.rows import Verdict, told
from trivium.recipe.suites import Primer

CATEGORIES = {"describe": "names", "signature": "signatures", "sum": "sums", "sort": "lists"}


def category(record: Mapping[str, Any]) -> str:
    meta = record["meta"]
    if meta["ask"] == "describe" and not meta["known"]:
        return "unknown names"
    return CATEGORIES.get(meta["ask"], "small talk")


def items(suite: Primer, folder: Path | None) -> list[Item]:
    drawn = []
    for name in (*CATEGORIES.values(), "unknown names", "small talk"):

        def wanted(record: Mapping[str, Any], name: str = name) -> bool:
            return "ask" in record["meta"] and category(record) == name

        drawn += _once(heldout(suite, folder, wanted, category, count=sys.maxsize))[: suite.items]
    return some(drawn, suite)


def _once(items: Sequence[Item]) -> list[Item]:
    """The first item of each subject."""
    first: dict[str, Item] = {}
    for item in items:
        first.setdefault(item.record["meta"].get("subject", item.id), item)
    return list(first.values())


def ask(subject: Asks, items: Sequence[Item], suite: Primer, baseline: Asks | None) -> list[Answer]:
    return subject.replies(items, suite.max_new_tokens, suite.temperature)


def judge(item: Item, answer: Answer) -> list[Verdict]:
    assert answer.reply is not None
    return [told(name, holds) for name, holds in marks(answer.reply.text, item.record["meta"]).items()]


SUITE = SuiteKind(items, ask, judge)
