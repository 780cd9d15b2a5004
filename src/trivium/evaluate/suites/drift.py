"""Where training pushed the replies, asked for or not: one reply to each held-out prompt, drawn at temperature 1.

Length, share cut off by the limit, repetition and declining show the usual ways of hacking a reward. kl: log pi - log pi_baseline
of the reply in nats, over its tokens (Schulman's k1, unbiased on the subject's own replies).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from trivium.evaluate.asked import Answer, Item, SuiteKind, heldout, some
from trivium.evaluate.rows import HIT, Undecided, Verdict, told
from trivium.evaluate.subject import Subject
from trivium.recipe.suites import Drift
from trivium.verify.refusal import refuses
from trivium.verify.replies import repetition


def items(suite: Drift, folder: Path | None) -> list[Item]:
    return some(heldout(suite, folder), suite)


def ask(subject: Subject, items: Sequence[Item], suite: Drift, baseline: Subject | None) -> list[Answer]:
    answers = subject.replies(items, suite.max_new_tokens, temperature=1.0)
    if baseline is None or baseline.name == subject.name:
        return answers
    asked = [i for i, answer in enumerate(answers) if answer.written and not answer.failed]
    rows = [
        ([*answers[i].ids, *answers[i].written], [False] * len(answers[i].ids) + [True] * len(answers[i].written))
        for i in asked
    ]  # fmt: skip
    pairs = zip(asked, subject.log_probs(rows), baseline.log_probs(rows), strict=True)
    for i, (ours, count), (theirs, _) in pairs:
        answers[i] = replace(answers[i], numbers={**answers[i].numbers, "kl": (ours - theirs, float(count))})
    return answers


def judge(item: Item, answer: Answer) -> list[Verdict]:
    assert answer.reply is not None
    text = answer.reply.text
    far = answer.numbers.get("kl")
    return [
        Verdict("length", HIT, answer.numbers["tokens"][0]),
        told("unfinished", not answer.reply.finished),
        Verdict("repetition", HIT, repetition(text)),
        told("refused", refuses(text, str(item.messages[-1]["content"]) if item.messages else "")),
        Verdict("kl", HIT, *far) if far else Verdict("kl", Undecided("there is no other baseline")),
    ]


SUITE = SuiteKind(items, ask, judge)
