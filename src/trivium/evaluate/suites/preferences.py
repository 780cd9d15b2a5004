"""Held-out pairs: which of two replies does the model find likelier, and how good is its own?

margin: log p(chosen) - log p(rejected), whose gain over the baseline's is the implicit reward margin (Rafailov et al. 2023,
eq. 5). checker: the share of points that the stated checker (`evaluate.checker`) gives the model's own reply; a win rate compares
it with the baseline's. beats_rejected: 1 if that is more than the pair's rejected reply has, 0.5 for a tie.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trivium.errors import DataError
from trivium.evaluate import checker
from trivium.evaluate.asked import Answer, Item, SuiteKind, heldout, in_proportion, some
from trivium.evaluate.rows import HIT, MISS, Undecided, Verdict
from trivium.evaluate.subject import Subject
from trivium.evaluate.suites import primer
from trivium.recipe.suites import Pairwise, Preferences
from trivium.text.chat import Encoded
from trivium.verify.replies import Reply


def items(suite: Preferences | Pairwise, folder: Path | None) -> list[Item]:
    """As they are held out: of names and of sums, of one source and of another, in proportion."""
    return some(
        in_proportion(heldout(suite, folder, category=category, count=sys.maxsize), suite.items), suite
    )


def category(record: Mapping[str, Any]) -> str:
    return primer.category(record) if "ask" in record["meta"] else str(record.get("source", ""))


def ask(
    subject: Subject, items: Sequence[Item], suite: Preferences, baseline: Subject | None
) -> list[Answer]:
    answers = subject.replies(items, suite.max_new_tokens)
    pairs = [_pair(subject, item) for item in items]
    asked = [i for i, pair in enumerate(pairs) if pair]
    sums = iter(subject.log_probs([side for i in asked for side in pairs[i]]))
    for i in asked:
        (chosen, _), (rejected, _) = next(sums), next(sums)
        answers[i] = replace(answers[i], numbers={**answers[i].numbers, "margin": (chosen - rejected, 1.0)})
    return answers


def _pair(subject: Subject, item: Item) -> list[Encoded]:
    """Both replies behind the prompt, cut at the context; empty if nothing of one would be left."""
    sides = []
    for side in ("chosen", "rejected"):
        try:
            ids, mask = subject.chat.response(item.messages, item.record[side], item.record.get("tools"))
        except DataError:
            return []
        cut = Encoded(ids[: subject.context], mask[: subject.context])
        if not any(cut.mask):
            return []
        sides.append(cut)
    return sides


def judge(item: Item, answer: Answer) -> list[Verdict]:
    verdicts = []
    if "margin" in answer.numbers:
        margin = answer.numbers["margin"][0]
        verdicts.append(Verdict("margin", HIT if margin > 0 else MISS, margin))
    else:
        verdicts.append(Verdict("margin", Undecided("the pair does not fit the context")))
    if answer.reply is None or answer.failed:
        return verdicts
    meta = item.record["meta"]
    score = checker.score(answer.reply, meta)
    better = checker.win(answer.reply, Reply(str(item.record["rejected"])), meta)
    return [
        *verdicts,
        Verdict("checker", HIT if score == 1 else MISS, score),
        Verdict("beats_rejected", HIT if better == 1 else MISS, better),
    ]


SUITE = SuiteKind(items, ask, judge)
