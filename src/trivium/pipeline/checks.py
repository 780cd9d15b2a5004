"""Checks that need data: made when the data stages have run and before any training."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from trivium import files
from trivium.corpus import records
from trivium.corpus.contamination import OVERLAP
from trivium.errors import DataError, RecipeError
from trivium.pipeline.contract import Artifact
from trivium.pipeline.graph import Graph, build
from trivium.recipe.data import DataStage
from trivium.recipe.evaluation import EvaluateStage
from trivium.recipe.models import Recipe
from trivium.recipe.suite import DataSuite
from trivium.recipe.synthesis import SynthesizeStage
from trivium.recipe.training import TrainingStage


def check_precision(recipe: Recipe, names: Iterable[str]) -> None:
    """RecipeError for the first of these stages that asks for bf16 on a processor of this machine that has none.

    It would be emulated: minutes of silence, then a training that is slower than in float32 and less exact.
    """
    for name in names:
        stage = recipe.stages[name]
        if not isinstance(stage, TrainingStage) or stage.precision != "bf16" or stage.launch.kind != "local":
            continue
        from trivium.train import machine

        device = machine.resolve(stage).device
        if not machine.native_bf16(device):
            raise RecipeError(
                f"`precision: bf16`, and this machine's {device} has no instructions for it",
                where=f"stages.{name}.precision",
                fix="write `precision: auto`, which takes float32 here",
            )


def check_overlap(recipe: Recipe, artifacts: Mapping[str, Artifact]) -> None:
    """Refuses an evaluation on items that the evaluated models are trained on.

    `artifacts`: stage -> artifact, at least of the data stages; data that is not there yet is left out.
    DataError names the stage, the suite, how many items overlap, and three of them.
    """
    graph = build(recipe)
    heldout: dict[str, frozenset[str]] = {}
    clean: set[tuple[str, str]] = set()  # (evaluated data, training data) already compared
    for name, config in recipe.stages.items():
        if not isinstance(config, EvaluateStage):
            continue
        trained_on = [data for data in _training_data(recipe, graph, name) if data in artifacts]
        for suite in config.suites:
            if not isinstance(suite, DataSuite) or suite.data not in artifacts:
                continue
            if suite.data not in heldout:
                heldout[suite.data] = frozenset(keys(artifacts[suite.data].path / "heldout"))
            for data in trained_on:
                if (suite.data, data) in clean:
                    continue
                seen = _seen(artifacts[data].path / "train", heldout[suite.data])
                if seen:
                    raise _overlap(name, suite.kind, suite.data, data, seen)
                clean.add((suite.data, data))
            if suite.contaminated == "refuse":
                for data in trained_on:
                    if flagged := overlapping(artifacts[data].path, suite.data):
                        raise _flagged(name, suite.kind, suite.data, data, flagged)


def check_measurable(recipe: Recipe, artifacts: Mapping[str, Artifact]) -> None:
    """Refuses a suite that has nothing to measure on in the data that is there. DataError names what the items lack."""
    for name, config in recipe.stages.items():
        for suite in config.suites if isinstance(config, EvaluateStage) else ():
            if not isinstance(suite, DataSuite) or not suite.needs or suite.data not in artifacts:
                continue
            metas = list(map(records.meta_of, records.read(artifacts[suite.data].path / "heldout")))
            for needed in suite.needs:
                if not any(map(needed.fits, metas)):
                    raise DataError(
                        f"stage {name!r}, suite {suite.kind!r}: none of the {len(metas)} held-out items of {suite.data!r} has "
                        f"{needed.what}, so there is nothing to measure",
                        where=f"stages.{name}.suites",
                        fix="give that stage a source whose rows have it (`meta` of your own rows is kept), raise its `heldout` "
                        "or `size`, or leave the suite out",
                    )


def _training_data(recipe: Recipe, graph: Graph, evaluate: str) -> list[str]:
    """The stages of data, a teacher's among them, whose training split reaches a model that the evaluate stage measures.

    A data stage that another one only decontaminates against does not count: nothing is trained on it.
    """
    config = recipe.stages[evaluate]
    assert isinstance(config, EvaluateStage)
    models = {config.model, *config.compare, *([config.baseline] if config.baseline else [])}
    users = [n for n in models | graph.ancestors(models) if not isinstance(recipe.stages[n], DataStage)]
    used = {parent for user in users for parent in graph.inputs(user)}
    return [n for n in graph.order if n in used and isinstance(recipe.stages[n], DataStage | SynthesizeStage)]


def keys(path: Path) -> Iterator[str]:
    """The `key` of each record of a split of a data artifact (`artifact / "train"`), a few in memory at a time."""
    try:
        number = 0
        for number, record in enumerate(records.read(path, ("key",)), start=1):  # noqa: B007  (told on failure)
            yield str(record["key"])
    except (KeyError, TypeError) as error:
        raise DataError(
            f"a record without a readable `key`: {error}",
            where=f"{records.files(path)[0]}, line {number}",
            fix="a data stage writes records with a `key`; run it anew",
        ) from None


def _seen(train: Path, heldout: frozenset[str]) -> list[str]:
    """Held-out keys that are trained on, each once, in the order of the training file."""
    return list(dict.fromkeys(key for key in keys(train) if key in heldout))


def overlapping(folder: Path, evaluated: str) -> list[str]:
    """Keys of the items of data stage `evaluated` that the documents in this data artifact share words with."""
    path = folder / OVERLAP
    if not path.is_file():
        return []
    rows = (json.loads(line) for line in files.lines(path))
    return [str(row["key"]) for row in rows if row["stage"] == evaluated]


def _flagged(evaluate: str, suite: str, evaluated: str, trained: str, keys: list[str]) -> DataError:
    items = f"{len(keys)} item{'s' if len(keys) != 1 else ''}"
    return DataError(
        f"stage {evaluate!r}, suite {suite!r}: {items} of {evaluated!r} share words with training documents of "
        f"{trained!r} (for example {', '.join(map(repr, keys[:3]))}), so the suite is not clean",
        where=f"stages.{evaluate}.suites",
        fix=f"write `on_overlap: drop` in {trained!r}, or `contaminated: report` in the suite to measure all the same",
    )


def _overlap(evaluate: str, suite: str, evaluated: str, trained: str, seen: list[str]) -> DataError:
    examples = ", ".join(repr(key) for key in seen[:3])
    count = f"{len(seen)} held-out item{'s' if len(seen) != 1 else ''}"
    fix = (
        f"add `decontaminate: [{evaluated}]` to the data stage {trained!r}, or give both the same `heldout` "
        "share so that they hold out the same items"
    )
    if evaluated == trained:
        fix = "one `key` must not stand in both splits: look for records that share a key"
    return DataError(
        f"stage {evaluate!r}, suite {suite!r}: {count} of {evaluated!r} also in the training data of "
        f"{trained!r}, so the result would measure memory (for example {examples})",
        where=f"stages.{evaluate}.suites",
        fix=fix,
    )
