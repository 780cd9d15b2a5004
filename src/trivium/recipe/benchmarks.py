"""Benchmarks as a recipe names them: questions with a right answer, in data stages, in files and in tasks of the harness."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from trivium.recipe.suite import DataSuite, FileSuite, Metric, Needed, SuiteBase


class Reasoning(DataSuite):
    """Held-out tasks: share of greedy replies whose answer reasoning-gym's scorer takes as right."""

    kind: Literal["reasoning"]
    metrics = (Metric("reasoning_exact_match", "reasoning exact match", "correct"),)
    formats = ("conversations",)
    needs = (Needed("`meta.entry`, the task and its answer", lambda meta: "entry" in meta),)


class Answers(DataSuite):
    """Held-out questions with an answer (`meta.answer`, or what the assistant's last turn ends in): share of greedy replies whose
    final answer is the same."""

    kind: Literal["answers"]
    metrics = (Metric("answers_right", "final answers that are right", "right"),)
    formats = ("conversations",)
    by: Literal["math", "exact"] = "math"
    """math: by algebra too, with math-verify (extra `math`): 1/2 is 0.5. exact: as texts and numbers."""


class Questions(DataSuite):
    """Held-out questions with a known answer: how many of the content words that the greedy reply adds to the question are the
    answer's, and the other way round (F1)? answered: at least half."""

    kind: Literal["questions"]
    metrics = (
        Metric("answered", "held-out questions answered", "answered"),
        Metric("answer_overlap", "what replies share with the answers (F1)", "overlap", "mean"),
    )
    formats = ("conversations",)
    needs = (Needed("`meta.answer`, the right one", lambda meta: "answer" in meta),)


_SCORES = (
    Metric("acc", "multiple choice: likeliest choice right", "likeliest"),
    Metric("acc_norm", "multiple choice: likeliest per character right", "likeliest_per_character"),
    Metric("acc_bytes", "multiple choice: likeliest per byte right", "acc_bytes"),
    Metric("acc_mutual_info", "multiple choice: most raised by the question right", "acc_mutual_info"),
    Metric("exact_match", "answers that are the expected text", "exact_match"),
    Metric("bits_per_byte", "held-out bits per byte", "bits", "ratio", -1, show="nats", bounds=None),
)


class Choice(FileSuite):
    """Multiple choice from JSON lines {question, choices, answer, category}: the likeliest choice is the model's answer.

    `answer` is the place of the right choice, from 0, or its text; `category` may be left out. As in
    lm-evaluation-harness, acc takes the choice of the highest log-likelihood, acc_norm that of the highest per character of it.
    """

    kind: Literal["choice"]
    metrics = _SCORES[:2]
    writes = False
    reads_per_item = 4
    prompt: Literal["document", "chat"] = "document"
    """document: `Question: ...`, and on the next line `Answer:` with the choice behind it, for models without dialogue. chat: the
    question as the user's turn and the choice as the reply."""


def scored(name: str) -> Metric:
    """A score of a task of the harness, by the harness's name for it: METRIC or METRIC,FILTER."""
    known = next((metric for metric in _SCORES if metric.name == name.split(",", 1)[0]), None)
    if known is None:
        return Metric(name, name, name, "mean", 0, show="nats", bounds=None)
    form: Any = "mean" if known.form == "share" else known.form
    return known._replace(name=name, judge=name, form=form)


class Harness(SuiteBase):
    """A task of lm-evaluation-harness, asked through our own engine: nothing is fetched, and each of its documents is a row."""

    kind: Literal["harness"]
    metrics = _SCORES
    reads_files = True
    writes = False  # if so, as much as the task says
    reads_per_item = 4
    task: Annotated[str, Field(min_length=1)]
    """A name of the harness (a task, group or tag), whose data set is in the cache of `datasets`, or the path of a task file
    (.yaml) from the recipe's folder, whose data stand beside it. A task file may name Python functions, which are run."""
    scores: Annotated[list[str], Field(min_length=1)] = ["acc"]
    """Its metrics that become rows, by the harness's names: `acc`, `acc_norm`, `exact_match`, `bits_per_byte` or any other
    that is a mean over documents; `METRIC,FILTER` where a task has several filters."""
    examples: Annotated[int, Field(ge=0)] | None = None
    """Answered examples before each question (num_fewshot); left out: as many as the task says."""
    prompt: Literal["document", "chat"] = "document"
    """document: the task's text as it is. chat: as a user's turn in the model's template, examples as turns before it."""

    @property
    def title(self) -> str:
        return self.name or self.task.rsplit("/", 1)[-1].removesuffix(".yaml").removesuffix(".yml")

    @property
    def measured(self) -> tuple[Metric, ...]:
        return tuple(scored(name) for name in dict.fromkeys(self.scores))

    def named(self, metric: Metric) -> str:
        return f"{self.title}.{metric.name}"
