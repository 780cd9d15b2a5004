"""What people are asked: two models' replies to the same prompt, or one reply alone. A function of tables of rows."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, NamedTuple

from trivium.evaluate.rows import Row, short_hash
from trivium.seeds import unit

FAMILIES = (
    "chatgpt", "claude", "command", "deepseek", "falcon", "gemini", "gemma", "gpt", "granite", "grok", "llama", "mistral",
    "mixtral", "olmo", "openelm", "phi", "qwen", "smollm", "stablelm", "tulu", "vicuna", "yi", "zephyr",
)  # fmt: skip
_SELF = (
    r"\b(?:i am|i'm|i’m|my name is|my name's|call me|this is|i was made as|i go by)\b[^.!?\n]{0,40}?(?<![\w])"
)


@dataclass(frozen=True)
class Side:
    model: str
    reply: str
    template: str
    """Hash of the chat template that the prompt went through."""
    evaluation: str
    """Id of the evaluation's artifact: from there, lineage leads to the checkpoint."""


@dataclass(frozen=True)
class Task:
    """`sides`: two to compare, or one to rate."""

    id: str
    suite: str
    category: str
    cluster: str
    item: str
    attempt: int
    prompt: str
    """The messages, as JSON."""
    sides: tuple[Side, ...]

    def as_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Task:
        found = json.loads(text)
        return cls(**found | {"sides": tuple(Side(**side) for side in found["sides"])})


class Table(NamedTuple):
    """An evaluation's rows, and what its artifact is called."""

    evaluation: str
    name: str
    rows: Sequence[Row]


def tasks(tables: Sequence[Table], rate: bool = False) -> tuple[list[Task], Counter[str]]:
    """Every pair of models' replies to the same prompt (`rate`: every reply alone), and what is left out, by reason.

    Two models of one name in two evaluations are told apart by the folder's name. What no judge could decide on (an empty reply,
    a server's error text) is not put to people.
    """
    shared = Counter(model for found in tables for model in {row.model for row in found.rows})
    usable: dict[tuple[str, str, int, str], dict[str, tuple[Row, Side]]] = {}
    account: Counter[str] = Counter()
    for found in tables:
        for rows in _replies(found.rows):
            row = rows[0]
            if row.reply is None or not row.reply.strip():
                account["no reply"] += 1
            elif not any(one.decided for one in rows):
                account["undecided by every judge"] += 1
            else:
                model = row.model if shared[row.model] == 1 else f"{found.name}/{row.model}"
                side = Side(model, row.reply, row.template, found.evaluation)
                key = (row.suite, row.item, row.attempt, row.prompt)
                usable.setdefault(key, {})[model] = (row, side)
    made = []
    for _, found_sides in sorted(usable.items()):
        ordered = [found_sides[model] for model in sorted(found_sides)]
        if not rate and len(ordered) < 2:
            account["one model only"] += 1
        for group in combinations(ordered, 1 if rate else 2):
            made.append(_task(group[0][0], tuple(side for _, side in group)))
    return made, account


def _replies(rows: Iterable[Row]) -> Iterable[list[Row]]:
    """The rows of each reply: one a judge."""
    groups: dict[tuple[str, str, int, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.suite, row.item, row.attempt, row.model), []).append(row)
    return groups.values()


def _task(row: Row, sides: tuple[Side, ...]) -> Task:
    known = [[side.model, side.reply, side.template] for side in sides]
    name = short_hash([row.suite, row.item, row.attempt, row.prompt, known])
    return Task(name, row.suite, row.category, row.cluster, row.item, row.attempt, row.prompt, sides)


def dealt(
    every: Iterable[Task], rater: str, raters: Sequence[str], seed: int = 0, overlap: float = 1.0
) -> list[Task]:
    """A rater's tasks in order: first the share `overlap` that everybody gets, from which agreement is measured, then the rater's
    own part of the rest."""
    names = sorted(raters)

    def place(task: Task) -> float:
        return unit(seed, f"deal/{task.id}")

    ordered = sorted(every, key=place)
    common = [task for task in ordered if place(task) < overlap]
    rest = [task for task in ordered if place(task) >= overlap]
    own = [t for t in rest if names[int(unit(seed, f"rater/{t.id}") * len(names))] == rater]
    return common + own


def shown(task: Task, rater: str, seed: int = 0) -> tuple[Side, ...]:
    """The sides from left to right, as this rater sees them: drawn for each rater and task, the same at every look."""
    turned = unit(seed, f"side/{task.id}/{rater}") < 0.5
    return tuple(reversed(task.sides)) if turned else task.sides


def names_itself(reply: str, models: Iterable[str], given: Iterable[str] = ()) -> bool:
    """Whether a reply says which model it is: "I am Trivium-2". `given` names count wherever they stand; the names of stages,
    which may be words such as "base", and of well-known families only where the reply speaks of itself."""
    known = "|".join(re.escape(name) for name in (*FAMILIES, *models))
    if re.search(rf"{_SELF}(?:{known})(?![a-z])", reply, re.IGNORECASE):
        return True
    return any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", reply, re.IGNORECASE) for name in given)


def messages(task: Task) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(task.prompt)
    return found
