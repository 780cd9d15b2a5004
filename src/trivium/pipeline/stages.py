"""The registry: how each kind of stage of a recipe is carried out. Bodies live with their subject; this is wiring."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trivium import files
from trivium.pipeline.contract import Context, Registry
from trivium.recipe.data import DataStage
from trivium.recipe.models import TRAINING
from trivium.recipe.training import ImportStage


@dataclass(frozen=True)
class Kind:
    """A stage kind from plain functions. Raise `version` when the same recipe would give another artifact."""

    version: int
    run: Callable[[Context], dict[str, Any]]
    identity: Callable[[Any, Path], dict[str, Any]] = lambda config, folder: {}


def _data(ctx: Context) -> dict[str, Any]:
    from trivium.corpus.run import build

    config: DataStage = ctx.config
    against = {name: ctx.inputs[name].path for name in config.decontaminate}
    return build(
        config,
        seed=ctx.seed,
        recipe_folder=ctx.recipe_folder,
        out=ctx.out,
        against=against,
        emit=ctx.emit,
        work=ctx.work,
        kept=ctx.work.parent.parent / "read" / _reading(ctx) if config.keep_read else None,
        inputs={name: artifact.path for name, artifact in ctx.inputs.items()},
        withdrawn=ctx.withdrawn,
    )


def _reading(ctx: Context) -> str:
    """What is read is known by the stage's identity without what only mixes and splits."""
    from trivium.pipeline.fingerprint import fingerprint

    identity = {name: value for name, value in ctx.identity.items() if name not in ("size", "heldout", "mix")}
    sources = [{**source, "weight": None} for source in identity["sources"]]
    return fingerprint({**identity, "sources": sources, "rejects": ctx.config.keep_rejects})


def _data_identity(config: Any, folder: Path) -> dict[str, Any]:
    from trivium.corpus.run import identity

    return identity(config, folder)


def _synthesize(ctx: Context) -> dict[str, Any]:
    from trivium.synthesize.build import build

    return build(
        ctx.config,
        seed=ctx.seed,
        recipe_folder=ctx.recipe_folder,
        inputs={name: (artifact.path, artifact.fingerprint) for name, artifact in ctx.inputs.items()},
        work=ctx.work,
        out=ctx.out,
        emit=ctx.emit,
    )


def _synthesize_identity(config: Any, folder: Path) -> dict[str, Any]:
    from trivium.synthesize.build import identity

    return identity(config, folder)


def _tokenizer(ctx: Context) -> dict[str, Any]:
    from trivium.corpus.shards import sample
    from trivium.text import tokenizer
    from trivium.text.render import TEMPLATE

    texts: list[str] = []
    characters = 0

    def seen() -> Iterator[str]:  # the trainer counts words as it reads: the sample is never in memory
        nonlocal characters
        for text in sample(ctx.inputs[ctx.config.data].path, ctx.config.sample):
            characters += len(text)
            if len(texts) < 1000:
                texts.append(text)
            yield text

    trained = tokenizer.train(seen(), ctx.config.vocab_size)
    tokenizer.save(trained, ctx.out, TEMPLATE, context=0)
    sizes = [len(encoding.ids) for encoding in trained.encode_batch(texts)]
    ratio = sum(len(text.encode()) for text in texts) / max(1, sum(sizes))
    return {"vocab_size": trained.get_vocab_size(), "characters": characters, "bytes_per_token": ratio}


def _train(ctx: Context) -> dict[str, Any]:
    from trivium.pipeline.launch import train

    return train(ctx)


def _train_identity(config: Any, folder: Path) -> dict[str, Any]:
    # how often is looked decides which weights are the best and when patience is over
    found: dict[str, Any] = {"validate_every": config.validate_every} if config.chooses else {}
    if reward := getattr(config, "reward", None):
        from trivium.verify import named_identity

        if scores := named_identity(reward):
            found["reward"] = scores
    return found


def _import(ctx: Context) -> dict[str, Any]:
    from trivium.imports import import_checkpoint

    config: ImportStage = ctx.config
    own = None if config.chat_template is None else ctx.recipe_folder / config.chat_template
    source = ctx.recipe_folder / config.path
    base = None if config.base is None else ctx.recipe_folder / config.base
    return import_checkpoint(
        source, ctx.out, own, base=base, add_tokens=config.add_tokens, eos=config.eos, emit=ctx.emit
    )


def _import_identity(config: Any, folder: Path) -> dict[str, Any]:
    from trivium.model.source import identity

    template, base = (None if name is None else folder / name for name in (config.chat_template, config.base))
    return identity(folder / config.path, template, base)


def _evaluate(ctx: Context) -> dict[str, Any]:
    from trivium.evaluate.run import evaluate
    from trivium.pipeline.account import history
    from trivium.pipeline.asked import earlier
    from trivium.pipeline.checks import overlapping
    from trivium.pipeline.gone import gone
    from trivium.pipeline.store import Store
    from trivium.recipe.suite import DataSuite
    from trivium.recipe.suites import Withdrawn

    store, config = Store(ctx.work.parent.parent), ctx.config
    made_from = history(ctx.inputs, store).values()
    data = [artifact.path for artifact in made_from if artifact.kind == "data"]
    if (withdrawn := gone(list(made_from), store, ctx.work / "withdrawn.jsonl")) is not None:
        taken = any(suite.title == "withdrawn" for suite in config.suites)
        asked = Withdrawn(
            kind="withdrawn", name="gone" if taken else None, path=str(withdrawn.absolute()), items=1000
        )
        config = config.model_copy(update={"suites": [*config.suites, asked]})
    contaminated = {
        suite.data: len({key for folder in data for key in overlapping(folder, suite.data)})
        for suite in ctx.config.suites
        if isinstance(suite, DataSuite)
    }
    folders = {name: artifact.path for name, artifact in ctx.inputs.items()}
    results = evaluate(
        config,
        folders,
        ctx.emit,
        contaminated,
        work=ctx.work,
        out=ctx.out,
        recipe_folder=ctx.recipe_folder,
        known=_known(config, ctx, store),
        earlier=earlier(ctx, store),
    )
    tested: dict[str, Any] = results["models"][ctx.config.model]
    return {**{name: found["value"] for name, found in tested.items()}, "passed": results["passed"]}


def _known(config: Any, ctx: Context, store: Any) -> dict[str, Any]:
    """What each model that is evaluated was trained on, where a suite looks for it."""
    from trivium.pipeline.trained import history, uses
    from trivium.recipe.suites import Verbatim, Withdrawn
    from trivium.trace.corpora import Known

    if not any(isinstance(suite, Verbatim | Withdrawn) for suite in config.suites):
        return {}
    known = {}
    for name in dict.fromkeys([ctx.config.model, ctx.config.baseline, *ctx.config.compare]):
        if name is not None:
            trained, unknown = uses(history(ctx.inputs[name].path, store), store)
            known[name] = Known(tuple(trained), tuple(unknown), store.root)
    return known


def _evaluate_identity(config: Any, folder: Path) -> dict[str, Any]:
    if not any(suite.outside for suite in config.suites):  # without loading what asks
        # results.json names the models, so their names are part of what is made
        return {"names": [config.model, config.baseline, *config.compare]}
    from trivium.evaluate.run import identity

    return identity(config, folder)


def _quantize(ctx: Context) -> dict[str, Any]:
    from trivium.deploy import quantize

    data = ctx.inputs[ctx.config.data].path if ctx.config.data else None
    return quantize.run(ctx.config, ctx.inputs[ctx.config.model].path, data, ctx.out, ctx.emit)


def _prune(ctx: Context) -> dict[str, Any]:
    from trivium.deploy import prune

    model, data = ctx.inputs[ctx.config.model].path, ctx.inputs[ctx.config.data].path
    return prune.run(ctx.config, model, data, ctx.out, ctx.emit)


def _export(ctx: Context) -> dict[str, Any]:
    from trivium.deploy.export import export

    data = ctx.inputs[ctx.config.data].path if ctx.config.data else None
    return export(ctx.config, ctx.inputs[ctx.config.model].path, data, ctx.out, ctx.emit)


def _export_identity(config: Any, folder: Path) -> dict[str, Any]:
    return {"names": [config.model]}  # which the files are called by


def _release(ctx: Context) -> dict[str, Any]:
    from trivium.deploy.release import check_gates
    from trivium.pipeline.account import history, summary
    from trivium.pipeline.lineage import lineage
    from trivium.pipeline.record import RECORD, SIGNATURES
    from trivium.pipeline.store import Store
    from trivium.report.card import model_card
    from trivium.report.page import html

    check_gates(ctx.config, {name: ctx.inputs[name].path for name in ctx.config.requires})
    model = ctx.inputs[ctx.config.model]
    store = Store(ctx.work.parent.parent)
    report = summary(ctx.recipe, history(ctx.inputs, store))
    for file in sorted(model.path.iterdir()):
        if file.is_file() and file.name not in (RECORD, SIGNATURES):
            shutil.copyfile(file, ctx.out / file.name)
    files.write_json(ctx.out / "lineage.json", lineage(model.fingerprint, store).as_dict())
    files.write_json(ctx.out / "report.json", report)
    files.write_text(ctx.out / "report.html", html(report))
    files.write_text(ctx.out / "MODEL_CARD.md", model_card(report, ctx.config.model))
    return {"gates": sum(len(entry["gates"]) for entry in report["gates"].values())}


def _release_identity(config: Any, folder: Path) -> dict[str, Any]:
    return {"names": [config.model, *config.requires]}


STAGES: Registry = {
    "data": Kind(6, _data, _data_identity),
    "tokenizer": Kind(2, _tokenizer),
    "synthesize": Kind(2, _synthesize, _synthesize_identity),
    "import": Kind(4, _import, _import_identity),
    **{kind: Kind(stage.version, _train, _train_identity) for kind, stage in TRAINING.items()},
    "evaluate": Kind(11, _evaluate, _evaluate_identity),
    "quantize": Kind(3, _quantize),
    "prune": Kind(2, _prune),
    "export": Kind(2, _export, _export_identity),
    "release": Kind(1, _release, _release_identity),
}
