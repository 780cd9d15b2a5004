"""How well a model predicts what the assistant says in held-out conversations: -log p of its tokens, in nats."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trivium.errors import DataError
from trivium.evaluate.asked import Answer, Item, SuiteKind, heldout, some
from trivium.evaluate.rows import HIT, Verdict
from trivium.evaluate.subject import Subject
from trivium.recipe.suites import ResponseLoss


def items(suite: ResponseLoss, folder: Path | None) -> list[Item]:
    return some(heldout(suite, folder), suite)


def ask(
    subject: Subject, items: Sequence[Item], suite: ResponseLoss, baseline: Subject | None
) -> list[Answer]:
    answers = [_encoded(subject, item) for item in items]
    asked = [i for i, (answer, _) in enumerate(answers) if not answer.failed]
    sums = subject.log_probs([(answers[i][0].ids, answers[i][1]) for i in asked])
    for i, (total, count) in zip(asked, sums, strict=True):
        ids = answers[i][0].ids
        answers[i] = (Answer(ids=ids, numbers={"nats": (-total, float(count))}), [])
    return [answer for answer, _ in answers]


def _encoded(subject: Subject, item: Item) -> tuple[Answer, Sequence[float]]:
    """The conversation's ids within the context, and which of them the assistant says."""
    try:
        ids, mask = subject.chat.encode(item.record["messages"], tools=item.record.get("tools"))
    except DataError as error:
        return Answer(failed=f"no prompt: {error.what}"), ()
    cut = mask[: subject.context]
    if not any(mask):
        return Answer(failed="the assistant says nothing in it"), ()
    if not any(cut):
        return Answer(failed=f"nothing of the reply is within the context of {subject.context} tokens"), ()
    return Answer(ids=ids[: subject.context]), cut


def judge(item: Item, answer: Answer) -> list[Verdict]:
    total, count = answer.numbers["nats"]
    return [Verdict("nats", HIT, total, count)]


SUITE = SuiteKind(items, ask, judge)
