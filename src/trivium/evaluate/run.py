"""An evaluate stage: every suite asked of every model, row by row; everything else is worked out from the table."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any

from trivium import files
from trivium.errors import DataError, TriviumError
from trivium.evaluate import calibration, inspect_log, page
from trivium.evaluate import rows as table
from trivium.evaluate.asked import Answer, Item, SuiteKind
from trivium.evaluate.calibration import Calibrated
from trivium.evaluate.curves import curves
from trivium.evaluate.gates import detectable, judge
from trivium.evaluate.judges import OpenJudge, checked, open_judges, overrule
from trivium.evaluate.metrics import Estimate, Paired, evidence
from trivium.evaluate.rows import Journal, Outcome, Row, Undecided, Verdict, judged
from trivium.evaluate.subject import FIRST_IDS, Subject
from trivium.evaluate.suites import SUITES
from trivium.recipe.evaluation import EvaluateStage
from trivium.recipe.suite import DataSuite, FileSuite, SuiteBase
from trivium.recipe.suites import metrics_of
from trivium.trace.corpora import Known
from trivium.types import Emit

SAMPLES = 6
FEWEST, MOST = 32, 256
"""Items that are asked together. Many, since they wait for the longest one once; few, since a kill costs them all."""
QUICK, SLOW = 15.0, 60.0
"""Seconds that a part may take: less, and the next one is larger; more, and it is smaller."""


@dataclass(frozen=True)
class Plan:
    """A suite with what it will ask."""

    config: SuiteBase
    kind: SuiteKind
    items: list[Item]
    judges: Mapping[str, OpenJudge] = field(default_factory=dict)

    @classmethod
    def make(cls, config: SuiteBase, folders: Mapping[str, Path], recipe_folder: Path = Path()) -> Plan:
        kind, source = SUITES[config.kind], recipe_folder
        if isinstance(config, DataSuite):
            source = folders[config.data]
        elif isinstance(config, FileSuite):
            source = recipe_folder / config.path
        ordered = sorted(kind.items(config, source), key=_key)
        if twice := [_key(one) for one, other in pairwise(ordered) if _key(one) == _key(other)]:
            raise DataError(
                f"suite {config.title} has two items {twice[0][0]!r:.80}: one would hide the other",
                fix="give each item an id of its own",
            )
        return cls(config, kind, [replace(item, number=number) for number, item in enumerate(ordered)])

    def judged(
        self, recipe_folder: Path, folders: Mapping[str, Path], journal: Journal | None = None
    ) -> Plan:
        """With its judges open: a model is asked about its labels now, but for what the journal holds."""
        return replace(self, judges=open_judges(self.config, recipe_folder, folders, journal))

    def known(self, recipe_folder: Path) -> dict[str, Calibrated]:
        """Axis -> who is asked instead of the rules, of the recipe's judges and of the suite's own."""
        own = self.kind.judges(self.config, recipe_folder) if self.kind.judges else {}
        return {**own, **{axis: Calibrated(one.name, one.labels) for axis, one in self.judges.items()}}


def _key(item: Item) -> tuple[str, int]:
    return item.id, item.attempt


def evaluate(
    config: EvaluateStage,
    folders: Mapping[str, Path],
    emit: Emit,
    contaminated: Mapping[str, int] | None = None,
    *,
    work: Path,
    out: Path,
    recipe_folder: Path = Path(),
    known: Mapping[str, Known] | None = None,
    earlier: Sequence[Row] = (),
) -> dict[str, Any]:
    """Asks, writes `rows.parquet`, `rows.html`, `inspect/*.eval` and `results.json` to `out`, and returns the results.

    `folders`: the artifact of every model and data stage by name. `work`: scratch that survives a kill.
    `recipe_folder`: where the paths of suites begin. `known`: what the models were trained on, for suites that look for it.
    `earlier`: rows that need not be asked for.

    {"models": {name: {metric: Estimate}}, "against_baseline": {metric: Difference}, "gates", "passed", "tested", "baseline",
    "corrected": {model: {metric: Corrected}}, "judges": {suite: {axis: who took it from the rules}},
    "curves": {suite: {model: success by queries}},
    "samples": {suite: {model: [{"prompt", "reply"}]}}, "contaminated": {data stage: items},
    "detectable": [what gates can show]}
    """
    table.needs_parquet()
    journal = Journal(work / "rows.jsonl")
    journal.adopt(earlier)
    made = (Plan.make(suite, folders, recipe_folder) for suite in config.suites)
    plans = [plan.judged(recipe_folder, folders, journal) for plan in made]
    clusters_of = {
        plan.config.title: [(item.category, item.cluster) for item in plan.items] for plan in plans
    }
    shown = detectable(config, clusters_of)
    for line in shown:
        emit({"event": "message", "message": line})
    constants = _ask(config, plans, folders, journal, known or {}, emit)
    table.need_judge([row for row in journal.rows if row.reason.startswith(table.AWAY)])
    judges = {plan.config.title: plan.known(recipe_folder) for plan in plans}
    results = summary(config, journal.rows, constants, contaminated or {}, judges) | {"detectable": shown}
    _write(out, journal.rows, results, config)
    return results


def _ask(
    config: EvaluateStage,
    plans: Sequence[Plan],
    folders: Mapping[str, Path],
    journal: Journal,
    known: Mapping[str, Known],
    emit: Emit,
) -> dict[str, dict[str, Estimate]]:
    """Every suite of every model; what is known of the models themselves."""
    models = list(
        dict.fromkeys([*config.compare, *([config.baseline] if config.baseline else []), config.model])
    )
    baseline = (
        Subject.open(config.baseline, folders[config.baseline], config.device, known.get(config.baseline))
        if config.baseline and any(suite.asks_baseline for suite in config.suites)
        else None
    )
    constants: dict[str, dict[str, Estimate]] = {}
    for name in models:
        subject = (
            baseline
            if baseline and name == baseline.name
            else Subject.open(name, folders[name], config.device, known.get(name))
        )
        for plan in plans:
            emit({"event": "suite", "model": name, "suite": plan.config.title})
            fill(journal, plan, subject, baseline)
        constants[name] = {
            "file_bytes": subject.file_bytes(),
            "tokens_per_second": subject.tokens_per_second(),
        }
    return constants


def _write(out: Path, rows: Sequence[Row], results: Mapping[str, Any], config: EvaluateStage) -> None:
    table.write(out / table.FILE, rows)
    files.write_json(out / "results.json", results)
    files.write_text(out / page.FILE, page.page(rows, results, config.suites))
    inspect_log.write(out / inspect_log.FOLDER, rows, results, config.suites)


def identity(config: EvaluateStage, recipe_folder: Path) -> dict[str, Any]:
    """What results depend on beyond the recipe and the inputs: names, which stand in them, and what suites read elsewhere.

    DataError for a file that cannot be asked: it is read here, before any stage has run.
    """
    found: dict[str, Any] = {"names": [config.model, config.baseline, *config.compare]}
    given = [suite for suite in config.suites if isinstance(suite, FileSuite)]
    for suite in given:
        Plan.make(suite, {}, recipe_folder)
    if judges := [hash_ for suite in config.suites for hash_ in checked(suite, recipe_folder)]:
        found["judges"] = judges
    if given:
        found["files"] = [files.sha256(recipe_folder / suite.path) for suite in given]
    named = [(suite, own) for suite in config.suites if (own := SUITES[suite.kind].identity)]
    if named:
        found["suites"] = [own(suite, recipe_folder) for suite, own in named]
    return found


def fill(
    journal: Journal, plan: Plan, subject: Subject, baseline: Subject | None = None, batch: int | None = None
) -> None:
    """Asks what the journal does not hold yet, `batch` items at a time; None: as many as take about QUICK to SLOW seconds."""
    title = plan.config.title
    due = [item for item in plan.items if not journal.has(title, subject.name, item.id, item.attempt)]
    size = batch or FEWEST
    while due:
        part = _part(due, plan.kind.together, size)
        due = due[len(part) :]
        began = time.perf_counter()
        answers = asked(plan, subject, baseline, part)
        outcomes = overrule(plan.judges, part, answers)
        took = time.perf_counter() - began
        each = took / len(part)
        if batch is None:
            size = min(2 * size, MOST) if took < QUICK else max(1, size // 2) if took > SLOW else size
        made = [
            rows_of(plan, subject, item, answer, each, found)
            for item, answer, found in zip(part, answers, outcomes, strict=True)
        ]
        journal.write(made)
        for axis in plan.judges:
            read = [row for rows in made for row in rows if row.judge == axis]
            table.need_judge([row for row in read if row.decided or row.reason.startswith(table.NO_VERDICT)])


def _part(due: list[Item], together: Callable[[Item], str] | None, size: int) -> list[Item]:
    """What is asked next."""
    if together is None:
        return due[:size]
    return list(takewhile(lambda item: together(item) == together(due[0]), due))


def asked(plan: Plan, subject: Subject, baseline: Subject | None, items: Sequence[Item]) -> list[Answer]:
    """An answer to each item; where the backend failed, why, and nothing is lost from the count."""
    try:
        answers = plan.kind.ask(subject, items, plan.config, baseline)
    except (TriviumError, OSError) as error:
        said = error.what if isinstance(error, TriviumError) else f"{type(error).__name__}: {error}"
        return [Answer(failed=f"could not be asked: {said}")] * len(items)
    missing = len(items) - len(answers)
    return [*answers[: len(items)], *[Answer(failed="no answer came")] * missing]


def rows_of(
    plan: Plan,
    subject: Subject,
    item: Item,
    answer: Answer,
    seconds: float,
    outcomes: Mapping[str, Outcome | Verdict] | None = None,
) -> list[Row]:
    """A row for every judge that the suite's metrics name: what a judge does not say is undecided.

    `outcomes`: of the axes that a judge of the recipe takes from the rules.
    """
    said: dict[str, Verdict] = {}
    missing = answer.failed or "the judge said nothing"
    if not answer.failed or answer.numbers:
        try:
            said = {verdict.judge: verdict for verdict in plan.kind.judge(item, answer)}
        except Exception as error:
            missing = f"the judge failed: {type(error).__name__}: {error}"
    if "sign" not in item.record:  # a secret is there or it is not: no opinion is better than looking
        said |= {axis: judged(axis, outcome) for axis, outcome in (outcomes or {}).items() if axis in said}
    result = []
    for judge_ in dict.fromkeys(metric.judge for metric in plan.config.measured):
        verdict = said.get(judge_) or Verdict(judge_, Undecided(missing))
        outcome, reason = table.outcome_columns(verdict.outcome)
        result.append(
            Row(
                suite=plan.config.title,
                category=item.category,
                cluster=item.cluster,
                item=item.id,
                model=subject.name,
                attempt=item.attempt,
                prompt=files.canonical_json([dict(message) for message in answer.messages or item.messages]),
                template=subject.template,
                first_ids=table.short_hash(list(answer.ids[:FIRST_IDS])),
                reply=None if answer.reply is None else answer.reply.text,
                judge=judge_,
                outcome=outcome,
                reason=reason,
                score=verdict.score,
                weight=verdict.weight,
                seconds=seconds,
            )
        )
    return result


def summary(
    config: EvaluateStage,
    rows: Sequence[Row],
    constants: Mapping[str, Mapping[str, Estimate]],
    contaminated: Mapping[str, int],
    judges: Mapping[str, Mapping[str, Calibrated]],
) -> dict[str, Any]:
    """The results: a function of the table, the gates and what was measured without rows."""
    models = list(constants)
    metrics: dict[str, dict[str, Any]] = {name: {} for name in models}
    differences: dict[str, Any] = {}
    for name, (suite, metric) in metrics_of(list(config.suites)).items():
        found = {model: evidence(metric, suite.title, rows, model, config.baseline) for model in models}
        for model, one in found.items():
            if one is not None and one.cells:
                metrics[model][name] = one.estimate().as_dict()
        ours, theirs = found[config.model], found.get(config.baseline or "")
        if ours and theirs and config.baseline != config.model and not metric.paired:
            differences[name] = vars(Paired(ours, theirs).difference())
    for model in models:
        metrics[model] |= {name: one.as_dict() for name, one in constants[model].items()}
    labels = {suite: {axis: one.labels for axis, one in found.items()} for suite, found in judges.items()}
    dirty = {name: count for name, count in contaminated.items() if count}
    gates = judge(config, rows, constants[config.model], dirty)
    return {
        "models": metrics,
        "against_baseline": differences,
        "gates": gates,
        "passed": all(gate["passed"] for gate in gates.values()),
        "tested": config.model,
        "baseline": config.baseline,
        "corrected": calibration.corrections(config, metrics, labels),
        "judges": {
            suite: {axis: one.name for axis, one in found.items()} for suite, found in judges.items() if found
        },
        "curves": curves(rows),
        "samples": samples(table.of_models(rows)),
        "contaminated": dirty,
    }


def samples(rows: Sequence[Row], count: int = SAMPLES) -> dict[str, dict[str, list[dict[str, str]]]]:
    """A few replies to read, the same questions of every model: {suite: {model: [{"prompt", "reply"}]}}."""
    replies: dict[str, dict[str, dict[str, Row]]] = {}
    for row in rows:
        if row.reply is not None:
            replies.setdefault(row.suite, {}).setdefault(row.model, {})[f"{row.item} {row.attempt}"] = row
    result: dict[str, dict[str, list[dict[str, str]]]] = {}
    for suite, models in replies.items():
        shared = sorted(set.intersection(*(set(found) for found in models.values())))
        picked = shared[:: max(1, len(shared) // count)][:count]
        result[suite] = {
            model: [
                {"prompt": table.prompt_text(found[key]), "reply": found[key].reply or ""} for key in picked
            ]
            for model, found in models.items()
        }
    return result
