"""Traps about data: sources, mixes, formats and held-out splits."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from trivium.errors import RecipeError
from trivium.recipe.data import DataStage
from trivium.recipe.evaluation import EvaluateStage
from trivium.recipe.lines import Path, listed
from trivium.recipe.look import Look
from trivium.recipe.references import references
from trivium.recipe.sources import SourceBase, Synthetic
from trivium.recipe.suite import DataSuite
from trivium.recipe.synthesis import SynthesizeStage

Found = Iterator[RecipeError]


def no_sources(look: Look) -> Found:
    for name, stage in look.each(DataStage):
        if not stage.sources:
            yield look.error(
                "this data stage has no sources",
                name,
                "sources",
                fix="write `sources: [{kind: python-docs}]` for the documentation inside Python, or "
                "`{kind: jsonl, path: ...}` for your own files",
            )


DOCUMENTS_ONLY = ("mix", "extract", "rules", "canaries")


def for_documents_only(look: Look) -> Found:
    """A step that would be left out without a word."""
    for name, stage in look.each(DataStage):
        if stage.format == "documents":
            continue
        for field in sorted(stage.model_fields_set & set(DOCUMENTS_ONLY)):
            yield look.error(
                f"`{field}` is for documents, and this stage makes {stage.format}",
                name,
                field,
                fix="take it out here, or clean the text in a stage of documents",
            )
        if stage.dedup is not None and stage.dedup.lines is not None:
            yield look.error(
                f"repeated lines are removed from documents, and this stage makes {stage.format}",
                name,
                "dedup",
                fix="leave `lines` out: equal items are dropped here too, and with `fuzzy` those that are alike",
            )


def mix_without_weights(look: Look) -> Found:
    for name, stage in look.each(DataStage):
        for index, source in enumerate(stage.sources):
            if len(stage.sources) > 1 and source.weight is None:
                yield look.error(
                    f"source {source.kind} has no weight in a mix of {len(stage.sources)}",
                    name,
                    "sources",
                    index,
                    fix="write `weight: ...` on every source: its share of the mix, scaled to add up to 1",
                )


def source_without_format(look: Look) -> Found:
    for name, stage in look.each(DataStage):
        for index, source in enumerate(stage.sources):
            if stage.format not in source.formats:
                yield look.error(
                    f"source {source.kind} cannot give {stage.format}, only {listed(sorted(source.formats))}",
                    name,
                    "sources",
                    index,
                    fix=f"take a source that gives {stage.format}, or change the stage's `format`",
                )


def synthetic_of_another_format(look: Look) -> Found:
    for name, stage in look.each(DataStage):
        for index, source in enumerate(stage.sources):
            if not isinstance(source, Synthetic):
                continue
            made = look.get(source.stage, DataStage)
            if made and made.format != stage.format:
                yield look.error(
                    f"this stage holds {stage.format}, and `{source.stage}` that it reads holds {made.format}",
                    name,
                    "sources",
                    index,
                    fix=f"name a stage with {stage.format}, or change the stage's `format`",
                )


def wrong_format(look: Look) -> Found:
    """A stage or suite whose data stage has another format than it learns from or measures."""
    for name, stage in look.recipe.stages.items():
        needs: list[tuple[Path, str | None, tuple[str, ...] | None, str]] = [
            (("data",), getattr(stage, "data", None), stage.takes, stage.kind)
        ]
        if isinstance(stage, EvaluateStage):
            needs = [
                (("suites", index, "data"), suite.data, suite.formats, f"suite {suite.kind}")
                for index, suite in enumerate(stage.suites)
                if isinstance(suite, DataSuite)
            ]
        for place, target, needed, said in needs:
            data = look.get(target, DataStage) or look.get(target, SynthesizeStage)
            if data and needed and data.format not in needed:
                fitting = [n for n, s in look.each(DataStage) if s.format in needed]
                fitting += [n for n, s in look.each(SynthesizeStage) if s.format in needed]
                form = " or ".join(needed)
                yield look.error(
                    f"{said} needs {form}, and `{target}` holds {data.format}",
                    name,
                    *place,
                    fix=f"data stages with {form}: {listed(fitting)}; or add one with `format: {needed[0]}`",
                )


def unverified(look: Look) -> Found:
    """Loops that have nothing to choose by."""
    for name, stage in look.each(SynthesizeStage):
        if stage.verifier is None and stage.method in ("cot", "best_of_n", "preferences"):
            yield look.error(
                f"{stage.method} has no verifier, so there is nothing to choose replies by",
                name,
                "method",
                fix="write `verifier: {kind: reasoning}` for reasoning-gym's tasks, `{kind: exact}` for known answers, "
                "`{kind: grounded}` for what a text says, "
                "`{kind: function, path: ...}` for code of your own, or `{kind: judge, teacher: ...}`",
            )
        if (
            stage.method in ("cot", "best_of_n", "preferences", "questions")
            and stage.samples > 1
            and stage.temperature == 0
        ):
            yield look.error(
                f"{stage.samples} samples at temperature 0 are {stage.samples} times the same",
                name,
                "temperature",
                fix="write a temperature such as 0.8, or `samples: 1`",
            )
        if stage.method == "preferences" and stage.chosen == "sampled" and stage.samples < 2:
            yield look.error(
                "a preference pair needs two replies, and `samples` is 1",
                name,
                "samples",
                fix="write `samples: 4` or more",
            )


def evaluated_without_heldout(look: Look) -> Found:
    for name, stage in look.recipe.stages.items():
        for place, target in references(stage):
            data = look.get(target, DataStage)
            if data and data.heldout == 0 and (place[0] in ("suites", "decontaminate")):
                use = "measured on" if place[0] == "suites" else "kept apart from"
                yield look.error(
                    f"`{target}` holds nothing out (heldout: 0), so there is nothing to be {use}",
                    name,
                    *place,
                    fix=f"give stage `{target}` a share to hold out, such as `heldout: 0.05`",
                )


def nothing_to_train_on(look: Look) -> Found:
    for name, stage in look.recipe.stages.items():
        target = getattr(stage, "data", None)
        data = look.get(target, DataStage)
        if data and data.heldout == 1:
            yield look.error(
                f"`{target}` holds everything out (heldout: 1), so there is nothing to train on",
                name,
                "data",
                fix="lower its `heldout`, or train on another data stage",
            )


def _shared(one: DataStage, other: DataStage) -> set[str]:
    """The sources that both read, by kind and path."""

    def identify(source: SourceBase) -> str:
        own = set(type(source).model_fields) - set(SourceBase.model_fields)
        places = [getattr(source, name) for name in ("path", "name", "stage", "start") if name in own]
        return " ".join(str(part) for part in (source.kind, *places))

    return {identify(source) for source in one.sources} & {identify(source) for source in other.sources}


def heldout_differs(look: Look) -> Found:
    """Items are split by a hash: only with equal shares is what one stage holds out unseen in the other."""
    for name, stage in look.each(DataStage):
        for index, target in enumerate(stage.decontaminate):
            other = look.get(target, DataStage)
            if (
                other
                and target != name
                and other.heldout != stage.heldout
                and (shared := _shared(stage, other))
            ):
                yield _differs(look, name, ("decontaminate", index), (name, stage), (target, other), shared)
    for name, test in look.each(EvaluateStage):
        trained = {
            key: data
            for model in (test.model, test.baseline, *test.compare)
            for key, data in look.trained_on(model).items()
        }
        for index, suite in enumerate(test.suites):
            if not isinstance(suite, DataSuite):
                continue
            measured = look.get(suite.data, DataStage)
            for key, data in trained.items():
                if measured and measured.heldout != data.heldout and (shared := _shared(measured, data)):
                    yield _differs(
                        look, name, ("suites", index, "data"), (key, data), (suite.data, measured), shared
                    )
                    break  # one is enough: equal shares for these two mend the others as well


def _differs(
    look: Look,
    name: str,
    place: tuple[str | int, ...],
    one: tuple[str, DataStage],
    other: tuple[str, DataStage],
    shared: set[str],
) -> RecipeError:
    return look.error(
        f"`{one[0]}` and `{other[0]}` both read {listed(sorted(shared))} but hold out different shares "
        f"({one[1].heldout:g} and {other[1].heldout:g})",
        name,
        *place,
        fix="items are held out by a hash of the item, so equal shares keep the same items out of training: "
        "give both stages the same `heldout`",
    )


TRAPS: tuple[Callable[[Look], Found], ...] = (
    no_sources,
    for_documents_only,
    mix_without_weights,
    source_without_format,
    synthetic_of_another_format,
    wrong_format,
    unverified,
    evaluated_without_heldout,
    nothing_to_train_on,
    heldout_differs,
)
