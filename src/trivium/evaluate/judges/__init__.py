"""Judges, one file each. `OPEN`: kind -> how it is opened. A judge gives an outcome to every (request, reply), and how well
it agrees with people where that is known. What a suite's rules say stands for the axes that no judge of the recipe takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from trivium import files
from trivium.errors import ArtifactError
from trivium.evaluate.asked import Answer, Item
from trivium.evaluate.attacks import ATTACKS
from trivium.evaluate.calibration import Labels
from trivium.evaluate.judges.classifier import SHIPPED, agreement, load, read_labels, read_pairs
from trivium.evaluate.judges.labelled import Asked, Shown
from trivium.evaluate.judges.model import Grades, ModelVerdicts, Preferred
from trivium.evaluate.rows import HIT, MISS, Journal, Outcome, Undecided, Verdict, short_hash
from trivium.evaluate.statistics import wilson
from trivium.recipe.judges import ClassifierJudge, GradeJudge, ModelJudge, PairJudge
from trivium.recipe.kinds import plugins
from trivium.recipe.suites import Pairwise
from trivium.verify.judge import request_of
from trivium.verify.refusal import declines


class OpenJudge(NamedTuple):
    """`labels`: None where it is not known how it agrees with people. `name`: for the report."""

    name: str
    outcomes: Callable[[Sequence[Any]], Sequence[Outcome | Verdict]]
    """Of (request, reply); of the axis `preferred`, of (request, reply, the baseline's)."""
    labels: Labels | None


def _classifier(config: ClassifierJudge, recipe_folder: Path) -> OpenJudge:
    path = SHIPPED if config.path is None else recipe_folder / config.path
    head = load(path)
    if head.axis != config.axis:
        raise ArtifactError(
            f"this judge was trained for `{head.axis}`, not for `{config.axis}`",
            where=str(path),
            fix=f"train one with `trivium evaluate judge train ROWS --axis {config.axis}`, and name its `path`",
        )
    name = f"classifier of {head.axis}, {head.rows} labels ({files.sha256(path)[:8]})"
    return OpenJudge(name, lambda pairs: [HIT if head(*pair) else MISS for pair in pairs], head.labels)


def _model(config: ModelJudge, recipe_folder: Path, folders: Mapping[str, Path], asked: Asked) -> OpenJudge:
    verdicts, labels, name = ModelVerdicts(config, folders), None, f"model {config.server.model}"
    if config.labels is not None:
        rows = read_labels(recipe_folder / config.labels)
        rows = sorted(rows, key=short_hash)[: config.max_labels]
        shown = [Shown((row.request, row.reply), "yes" if row.label else "no") for row in rows]
        said = asked(name, config.axis, shown, verdicts)
        labels = agreement([{"hit": True, "miss": False}.get(one.outcome) for one in said], rows)
    return OpenJudge(name, verdicts, labels)


def _here(opens: Callable[[Any, Path], OpenJudge]) -> Callable[..., OpenJudge]:
    return lambda config, recipe_folder, folders, asked: opens(config, recipe_folder)


OPEN: dict[str, Callable[[Any, Path, Mapping[str, Path], Asked], OpenJudge]] = {
    "classifier": _here(_classifier),
    "model": _model,
    **{kind: _here(plugin.implementation()) for kind, plugin in plugins("trivium.judges").items()},
}


Scorer = Callable[[Sequence[tuple[str, str]]], list[float | None]]
"""Scores of (request, reply) pairs from 0 to 1, more is better; None: undecided."""


def open_scorer(config: Any, folder: Path) -> Scorer:
    """A judge for live replies. One that says yes or no gives 1 or 0; of `refused`, 1 is a reply that does not decline."""
    if isinstance(config, GradeJudge):
        grades = Grades(config)
        return lambda pairs: [None if isinstance(one, Undecided) else one for one in grades(pairs)]
    judge, good = OPEN[config.kind](config, folder, {}, Asked()), MISS if config.axis == "refused" else HIT
    return lambda pairs: [
        None if isinstance(one, Undecided) else float(one is good) for one in judge.outcomes(pairs)
    ]


def open_judges(
    suite: Any, recipe_folder: Path, folders: Mapping[str, Path], journal: Journal | None = None
) -> dict[str, OpenJudge]:
    """Axis -> its judge, of a suite whose recipe names some. `folders`: checkpoints of the recipe by name. `journal`: keeps what
    judges say of people's labels."""
    asked = Asked(suite.title, journal)
    if isinstance(suite, Pairwise):
        judge = Preferred(suite.judge, folders)
        return {"preferred": OpenJudge(_known(judge, suite.judge, recipe_folder, asked), judge, None)}
    return {
        judge.axis: OPEN[judge.kind](judge, recipe_folder, folders, asked)
        for judge in getattr(suite, "judges", ())
    }


def _known(judge: Preferred, config: PairJudge, recipe_folder: Path, asked: Asked) -> str:
    """What a judge of pairs is called: with how many of people's choices it agrees, whichever stands first. A tie, and a verdict
    that hangs on the order, agrees with nobody."""
    name = f"model {config.server.model}"
    if config.labels is None:
        return f"{name}, held against nobody's choices"
    rows = sorted(read_pairs(recipe_folder / config.labels), key=short_hash)[: config.max_labels]
    said = asked(name, "preferred", [Shown(row, "chosen first") for row in rows], judge)
    agreed = sum(one.score == 1 for one in said)
    low, high = wilson(agreed / len(rows), len(rows))
    return f"{name}, agrees with {agreed} of {len(rows)} choices of people [{low:.0%}, {high:.0%}]"


def checked(suite: Any, recipe_folder: Path) -> list[str]:
    """Hashes of the files that a suite's judges are made of. Raises for one that cannot be read, before anything is asked."""
    found = []
    if isinstance(suite, Pairwise) and suite.judge.labels is not None:
        read_pairs(recipe_folder / suite.judge.labels)
        found.append(files.sha256(recipe_folder / suite.judge.labels))
    for judge in getattr(suite, "judges", ()):
        if isinstance(judge, ClassifierJudge):
            path = SHIPPED if judge.path is None else recipe_folder / judge.path
            _classifier(judge, recipe_folder)
            found.append(files.sha256(path))
        elif isinstance(judge, ModelJudge) and judge.labels is not None:
            read_labels(recipe_folder / judge.labels)
            found.append(files.sha256(recipe_folder / judge.labels))
    return found


def overrule(
    judges: Mapping[str, OpenJudge], items: Sequence[Item], answers: Sequence[Answer]
) -> list[dict[str, Outcome | Verdict]]:
    """For every item, the outcomes of the axes that a judge takes; none for an answer without a reply."""
    said: list[dict[str, Outcome | Verdict]] = [{} for _ in items]
    places = [i for i, answer in enumerate(answers) if not answer.failed and answer.reply is not None]
    for axis, judge in judges.items():
        for place, outcome in zip(
            places, judge.outcomes([_pair(items[i], answers[i]) for i in places]), strict=True
        ):
            said[place][axis] = outcome
    return said


def _pair(item: Item, answer: Answer) -> tuple[str, ...]:
    """(what was asked, the reply), both in the open: a reply in code is read in it unless it declines as it stands. Beside the
    baseline's reply, (the conversation, the reply, the baseline's)."""
    assert answer.reply is not None
    if answer.beside is not None:
        return request_of({"prompt": item.messages}), answer.reply.text, answer.beside.text
    last = str(item.messages[-1]["content"]) if item.messages else ""
    request, text = str(item.record.get("request", last)), answer.reply.text
    attack = ATTACKS.get(str(item.record.get("attack", "")))
    return request, text if attack is None or declines(text, request) else attack.reads(text)
