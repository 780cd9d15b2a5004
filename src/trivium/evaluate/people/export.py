"""What is made of votes: rows that a data stage reads, rows of the judge `people`, and the votes themselves. Pure.

Only votes with the rater's consent become training data. A pair is chosen by the majority of its raters, and left out where
there is none.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from trivium.errors import DataError
from trivium.evaluate.people.tasks import Side, Task, messages
from trivium.evaluate.people.votes import Vote, from_row, vote_line
from trivium.evaluate.rows import Row

JUDGE = "people"
KINDS = ("preferences", "feedback", "votes")
"""As JSON lines; `people_rows` makes rows for the table."""


def lines(kind: str, votes: Sequence[Vote], tasks: Mapping[str, Task]) -> tuple[list[str], Counter[str]]:
    """JSON lines of `KINDS`, always in the same order, and what was left out, by reason."""
    account: Counter[str] = Counter()
    if kind == "votes":
        used = {vote.task for vote in votes}
        whole = [json.dumps({"task": json.loads(task.as_json())}, ensure_ascii=False, sort_keys=True)
                 for name, task in sorted(tasks.items()) if name in used]  # fmt: skip
        return whole + [vote_line(vote) for vote in votes], account
    make = _preferences if kind == "preferences" else _feedback
    rows = [json.dumps(row, ensure_ascii=False, sort_keys=True) for row in make(votes, tasks, account)]
    return rows, account


def read_votes(text: str, where: str = "") -> tuple[list[Task], list[Vote]]:
    """What `lines("votes", ...)` wrote. DataError with the line that is none of it."""
    tasks, votes = [], []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
            if isinstance(found, dict) and isinstance(found.get("task"), dict):
                tasks.append(Task.from_json(json.dumps(found["task"])))
            else:
                votes.append(from_row(found))
        except (ValueError, TypeError, KeyError, DataError) as error:
            said = error.what if isinstance(error, DataError) else str(error)
            raise DataError(
                f"line {number} is no vote: {said[:120]}",
                where=where,
                fix="give what `trivium arena export --kind votes` wrote",
            ) from None
    return tasks, votes


def _consented(
    votes: Iterable[Vote], tasks: Mapping[str, Task], account: Counter[str]
) -> dict[str, list[Vote]]:
    """Votes that may be learnt from, by task."""
    found: dict[str, list[Vote]] = {}
    for vote in votes:
        if not vote.consent:
            account["no consent"] += 1
        elif not vote.blind:
            account["not blind"] += 1
        elif vote.task not in tasks:
            account["of a task that is not here"] += 1
        else:
            found.setdefault(vote.task, []).append(vote)
    return dict(sorted(found.items()))


def _preferences(
    votes: Iterable[Vote], tasks: Mapping[str, Task], account: Counter[str]
) -> Iterator[dict[str, Any]]:
    for name, said in _consented(votes, tasks, account).items():
        task = tasks[name]
        if len(task.sides) != 2:
            account["of a single reply"] += len(said)
            continue
        first, second = task.sides
        scores = Counter(vote.winner for vote in said if vote.winner)
        if scores[first.model] == scores[second.model]:
            account["no majority"] += 1
        elif first.reply.strip() == second.reply.strip():
            account["equal replies"] += 1
        else:
            better = first if scores[first.model] > scores[second.model] else second
            worse = second if better is first else first
            yield {
                "prompt": messages(task),
                "chosen": better.reply,
                "rejected": worse.reply,
                "meta": _meta(task, better, said) | {"over": _side(worse)},
            }


def _feedback(
    votes: Iterable[Vote], tasks: Mapping[str, Task], account: Counter[str]
) -> Iterator[dict[str, Any]]:
    """Of two replies: the preferred one is good, the other bad; both bad are both bad. Ties say nothing."""
    for name, said in _consented(votes, tasks, account).items():
        for side in tasks[name].sides:
            marks = Counter(_mark(vote, side) for vote in said)
            if marks[True] == marks[False]:
                account["no majority"] += 1
                continue
            yield {
                "prompt": messages(tasks[name]),
                "completion": side.reply,
                "label": int(marks[True] > marks[False]),
                "meta": _meta(tasks[name], side, said),
            }


def _mark(vote: Vote, side: Side) -> bool | None:
    if vote.choice in ("bad", "poor"):
        return False
    return None if vote.choice == "tie" else vote.winner == side.model


def _side(side: Side) -> dict[str, str]:
    return {"model": side.model, "evaluation": side.evaluation, "template": side.template}


def _meta(task: Task, side: Side, said: Sequence[Vote]) -> dict[str, Any]:
    """Where a row comes from: the evaluation's artifact leads back to the checkpoint that spoke, the task to its votes."""
    return {
        **_side(side), "task": task.id, "suite": task.suite, "item": task.item, "raters": len(said), "consent": True,
    }  # fmt: skip


def people_rows(votes: Sequence[Vote], tasks: Mapping[str, Task]) -> list[Row]:
    """Votes as rows of the judge `people`: a row for each reply and rater, `attempt` the rater's number. A preferred or good
    reply is a hit, the other a miss, a tie a miss that scores 0.5; a vote that was not blind is undecided."""
    number = {name: n for n, name in enumerate(sorted({vote.rater for vote in votes}))}
    return [
        _row(vote, tasks[vote.task], side, number[vote.rater])
        for vote in votes
        if vote.task in tasks
        for side in tasks[vote.task].sides
    ]


def _row(vote: Vote, task: Task, side: Side, rater: int) -> Row:
    against = "".join(f" against {other.model}" for other in task.sides if other is not side)
    hit = vote.winner == side.model
    outcome, why = (
        ("hit" if hit else "miss", "") if vote.blind else ("undecided", "a reply said which model it is")
    )
    return Row(
        suite=task.suite, category=task.category, cluster=task.cluster, item=f"{task.item}{against}", model=side.model,
        attempt=rater, prompt=task.prompt, template=side.template, first_ids="", reply=side.reply, judge=JUDGE,
        outcome=outcome, reason=why, score=None if why else 0.5 if vote.choice == "tie" else float(hit), weight=1.0,
        seconds=vote.seconds,
    )  # fmt: skip
