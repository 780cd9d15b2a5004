"""Greedy replies to held-out prompts, looked for in what the model was trained on: does a long run of tokens stand there?

A reply without such a span is a miss only where all of the training data is known: of an imported model, or of data that is gone,
it stays undecided, and the gate does not pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trivium.errors import DataError
from trivium.evaluate.asked import Answer, Item, SuiteKind, heldout, some
from trivium.evaluate.rows import HIT, Undecided, Verdict, told
from trivium.evaluate.subject import Subject
from trivium.recipe.suites import Verbatim
from trivium.trace.corpora import open_corpus
from trivium.trace.reply import LEAST, covered, trace


def items(suite: Verbatim, folder: Path | None) -> list[Item]:
    return some(heldout(suite, folder), suite)


def ask(subject: Subject, items: Sequence[Item], suite: Verbatim, baseline: Subject | None) -> list[Answer]:
    known = subject.known
    if not known.trained or known.store is None:
        raise DataError("; ".join(known.unknown) or "nothing is known of what the model was trained on")
    corpora = [open_corpus(one, known.store, lambda event: None) for one in known.trained]
    answers = subject.replies(items, suite.max_new_tokens)
    return [_looked_up(answer, suite, corpora, bool(known.unknown)) for answer in answers]


def _looked_up(answer: Answer, suite: Verbatim, corpora: Any, unknown: bool) -> Answer:
    if answer.reply is None or answer.failed:
        return answer
    text = answer.reply.text
    try:
        spans = trace(text, corpora, least=min(LEAST, suite.tokens), documents=1, licences=suite.licences)[
            "spans"
        ]
    except DataError:  # shorter than any span
        spans = []
    longest = max((one["tokens"] for one in spans), default=0)
    found = {
        "span": (float(longest >= suite.tokens), 1.0),
        "share": (covered(spans, len(text)), 1.0),
        "unknown": (float(unknown), 1.0),
    }
    return replace(answer, numbers={**answer.numbers, **found})


def judge(item: Item, answer: Answer) -> list[Verdict]:
    long, unknown = bool(answer.numbers["span"][0]), bool(answer.numbers["unknown"][0])
    if unknown and not long:
        why = Undecided("it may stand in training data that is not known")
        return [Verdict("span", why), Verdict("share", why)]
    return [told("span", long), Verdict("share", HIT, *answer.numbers["share"])]


SUITE = SuiteKind(items, ask, judge)
