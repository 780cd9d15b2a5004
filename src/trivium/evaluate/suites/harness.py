"""A task of lm-evaluation-harness: each of its documents is an item, and what the task says of the answers are the verdicts.

Prompts, requests, filters and scores are the harness's own; only the model is ours (`trivium.evaluate.harness`, which alone
imports it). What would have to be cut to fit the context is undecided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trivium.errors import DataError
from trivium.evaluate.asked import Answer, Item, SuiteKind, silent, some
from trivium.evaluate.rows import HIT, Verdict, short_hash, told
from trivium.evaluate.subject import Subject
from trivium.recipe.benchmarks import Harness
from trivium.verify.replies import Reply


@dataclass
class _Task:
    """A task of the harness with the documents that are asked; its requests by the chat template that they were made with."""

    task: Any
    chosen: list[int]
    made: dict[str, dict[int, list[Any]]] = field(default_factory=dict)

    def requests(self, engine: Any | None) -> dict[int, list[Any]]:
        from trivium.evaluate import harness

        template = engine.subject.template if engine else ""
        if template not in self.made:
            self.made = {template: harness.requests(self.task, self.chosen, engine)}
        return self.made[template]


def _loaded(suite: Harness, folder: Path) -> dict[str, Any]:
    """The tasks by name. DataError where one has not what `scores` names."""
    from trivium.evaluate import harness

    tasks = harness.load(suite.task, folder, suite.examples)
    for name, task in tasks.items():
        for score in suite.scores:
            how = harness.aggregation(task, score)
            if how in harness.FORMS:
                continue
            why = f"is no mean over documents, but `{how}`" if how else "is none of its metrics"
            raise DataError(
                f"suite {suite.title}: `{score}` of task {name} {why}",
                where=suite.task,
                fix=f"`scores` can name: {', '.join(harness.names(task)) or 'nothing of this task'}",
            )
    return tasks


def identity(suite: Harness, folder: Path) -> Any:
    """The harness's version, the tasks' settings and their data: files that a task is made of may lie anywhere."""
    from importlib.metadata import version

    tasks = _loaded(suite, folder)
    settings = [[name, repr(task.dump_config())] for name, task in sorted(tasks.items())]
    data = [[repr(doc) for doc in task.eval_docs] for _, task in sorted(tasks.items())]
    return [version("lm-eval"), short_hash([settings, data])]


def items(suite: Harness, folder: Path) -> list[Item]:
    """`suite.items` documents of each task at most, drawn by the hash of their place."""
    result = []
    for name, task in sorted(_loaded(suite, folder).items()):
        places = sorted(range(len(task.eval_docs)), key=lambda place, name=name: short_hash([name, place]))  # type: ignore[misc]
        bundle = _Task(task, sorted(places[: suite.items]))
        for place, instances in bundle.requests(None).items():
            text = str(instances[0].args[0])
            record = {"bundle": bundle, "place": place}
            label = f"{name}/{place}"
            result.append(Item(label, name, label, ({"role": "user", "content": text},), record))
    return some(result, suite)


def ask(subject: Subject, items: Sequence[Item], suite: Harness, baseline: Subject | None) -> list[Answer]:
    from trivium.evaluate import harness

    engine = harness.Engine(subject)
    several = [
        item.record["bundle"].requests(engine if suite.prompt == "chat" else None)[item.record["place"]]
        for item in items
    ]
    failed = [next((why for one in instances if (why := engine.unfit(one))), "") for instances in several]
    harness.answered(
        engine, [one for instances, why in zip(several, failed, strict=True) if not why for one in instances]
    )
    return [
        _answer(engine, item.record["bundle"].task, instances, why, suite)
        for item, instances, why in zip(items, several, failed, strict=True)
    ]


def _answer(engine: Any, task: Any, instances: list[Any], failed: str, suite: Harness) -> Answer:
    from trivium.evaluate import harness

    ids = tuple(engine.given(instances[0]))
    if failed:
        return Answer(failed=failed, ids=ids)
    reply = None
    if instances[0].request_type == "generate_until":
        reply = Reply(str(instances[0].resps[0]), True)
        if why := silent(reply):
            return Answer(reply=reply, failed=why, ids=ids)
    try:
        found = harness.measured(task, instances)
        numbers = {
            score: harness.value_of(harness.aggregation(task, score), found[score]) for score in suite.scores
        }
    except Exception as error:  # a task's own code
        return Answer(reply=reply, failed=f"the task failed: {type(error).__name__}: {error}", ids=ids)
    return Answer(reply=reply, ids=ids, numbers=numbers)


def judge(item: Item, answer: Answer) -> list[Verdict]:
    return [
        told(name, score == 1) if (score, weight) in ((0.0, 1.0), (1.0, 1.0)) else Verdict(name, HIT, score, weight)
        for name, (score, weight) in answer.numbers.items()
    ]  # fmt: skip


SUITE = SuiteKind(items, ask, judge, identity)
