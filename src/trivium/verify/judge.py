"""A language model as the judge (Zheng et al. 2023, LLM-as-a-judge): grades of single replies, verdicts on pairs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from trivium.corpus.records import prompt_of

Messages = list[dict[str, str]]

GRADE = """Grade the reply to a request on this criterion: {criterion}

Request:
{request}

Reply:
{reply}

Think it over briefly, then end with one line of the form `Score: N`, N from 1 (useless) to 10 (perfect)."""

CHOICE = """Which of two replies to a request is better on this criterion: {criterion}

Request:
{request}

Reply A:
{a}

Reply B:
{b}

Think it over briefly, then end with one line of the form `Better: A` or `Better: B`."""

HELPFUL = "correct, to the point and helpful"
_SCORE = re.compile(r"Score: (10|[1-9])")
_BETTER = re.compile(r"Better: ([AB])")


class Ask(Protocol):
    """A model as a function: a reply to each conversation, in their order."""

    def __call__(self, conversations: Sequence[Messages], /) -> list[str]: ...


class LLMJudge:
    """Scores in [0, 1] from a model's grades of 1 to 10. What does not end in exactly the asked form is no grade: it
    scores 0 and is counted in `unread`.
    """

    def __init__(self, ask: Ask, criterion: str = HELPFUL) -> None:
        self.ask, self.criterion = ask, criterion
        self.counts: Counter[str] = Counter()

    def __call__(self, record: Mapping[str, Any], reply: str) -> float:
        return self.many([(record, reply)])[0]

    def many(self, rows: Sequence[tuple[Mapping[str, Any], str]]) -> list[float]:
        """Scores of (record, reply), asked for together."""
        asked = [
            GRADE.format(criterion=self.criterion, request=request_of(record), reply=reply)
            for record, reply in rows
        ]
        scores = []
        for said in self.ask([_user(text) for text in asked]):
            found = _last_line(_SCORE, said)
            self.counts["unread" if found is None else "read"] += 1
            scores.append(0.0 if found is None else (int(found) - 1) / 9)
        return scores

    def compare(self, rows: Sequence[tuple[Mapping[str, Any], str, str]]) -> list[float]:
        """For (record, one, other): 1 if `one` is better, 0 if `other` is, 0.5 if it cannot be told.

        Every pair is asked about in both orders; verdicts that depend on the order, or that cannot be read, are ties.
        """
        asked = []
        for record, one, other in rows:
            request = request_of(record)
            for a, b in ((one, other), (other, one)):
                text = CHOICE.format(criterion=self.criterion, request=request, a=a, b=b)
                asked.append(_user(text))
        said = [_last_line(_BETTER, text) for text in self.ask(asked)]
        verdicts = []
        for first, second in zip(said[::2], said[1::2], strict=True):
            if first is None or second is None:
                self.counts["unread"] += 1
            elif first == second:
                self.counts["swayed by the order"] += 1
            else:
                self.counts["read"] += 1
            verdicts.append({("A", "B"): 1.0, ("B", "A"): 0.0}.get((first, second), 0.5))  # type: ignore[arg-type]
        return verdicts


def _user(text: str) -> Messages:
    return [{"role": "user", "content": text}]


def _last_line(pattern: re.Pattern[str], text: str) -> str | None:
    lines = text.strip().splitlines()
    found = pattern.fullmatch(lines[-1].strip()) if lines else None
    return found.group(1) if found else None


def request_of(record: Mapping[str, Any]) -> str:
    """What was asked: the turns before the reply, each with who says it where there are several."""
    turns = prompt_of(record)
    if len(turns) == 1:
        return str(turns[0]["content"])
    return "\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)
