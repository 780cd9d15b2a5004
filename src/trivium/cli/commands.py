"""What the commands do: load, call, print. Everything heavy is imported inside the function that needs it."""

from __future__ import annotations

import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from trivium import files
from trivium.errors import ArtifactError, GateError, Interrupted, RecipeError, TriviumError

if TYPE_CHECKING:
    from trivium.recipe.models import Recipe


def guarded(action: Callable[[], object]) -> int:
    """Runs `action`, gives the exit code. Errors for people go to stderr, with a traceback under --debug."""
    try:
        action()
    except TriviumError as error:
        from trivium.pipeline.objects import redacted

        if os.environ.get("TRIVIUM_DEBUG"):
            traceback.print_exc()
        Console(stderr=True, highlight=False).print(
            Text.assemble(("error: ", "bold red"), redacted(str(error))), soft_wrap=True
        )
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return Interrupted.exit_code
    except BrokenPipeError:  # the reader (head, less) has gone: not our error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0


def load(path: Path, overrides: Sequence[str] | None) -> Recipe:
    from trivium.recipe.load import load

    return load(path, overrides or ())


def places_of(recipe: Path, store: str, runs: Path) -> dict[str, Any]:
    from trivium.pipeline.stages import STAGES
    from trivium.pipeline.store import opened

    return {
        "store": opened(store),
        "registry": STAGES,
        "recipe_folder": recipe.resolve().parent,
        "runs_folder": runs,
    }


def run(
    path: Path, overrides: Sequence[str] | None, store: str, runs: Path, only: Sequence[str] | None
) -> None:
    recipe = load(path, overrides)
    from trivium.console import Progress
    from trivium.pipeline import run as pipeline

    places = places_of(path, store, runs)
    try:
        with Progress() as progress:
            pipeline.run(recipe, **places, emit=progress, only=only)
    except GateError:  # the figures are what the user needs to see now
        _show_results(recipe, places, only)
        raise
    _show_results(recipe, places, only)


def gathered(recipe: Recipe, places: dict[str, Any], only: Sequence[str] | None = None) -> dict[str, Any]:
    """The report of what is in the store now; saved as runs/RECIPE/report.html and report.json if anything was measured.
    Where another stage's files are not there, of the stages in `only`, which have run, and what they need."""
    from trivium.pipeline.account import current, summary
    from trivium.pipeline.forecast import compared
    from trivium.pipeline.run import status
    from trivium.plan.machine import known_rates
    from trivium.report.page import html

    try:
        found = status(recipe, **places)
    except TriviumError:
        if only is None:
            raise
        found = status(recipe, **places, only=only)
    artifacts = current(places["store"], found)
    result = summary(recipe, artifacts)
    root = places["store"].root
    if (rates := known_rates(root / "machine.json")) is not None:
        both = compared(recipe, root, artifacts, rates)
        result["planned"] = {one.stage: {"planned": one.planned, "took": one.took} for one in both}
    if result["models"] or result["smaller"]:
        folder = places["runs_folder"] / recipe.name
        files.write_json(folder / "report.json", result)
        files.write_text(folder / "report.html", html(result))
    return result


def _show_results(recipe: Recipe, places: dict[str, Any], only: Sequence[str] | None) -> None:
    """Prints the tables of what was measured, and where the report is."""
    from trivium.recipe.deployment import SmallerStage
    from trivium.recipe.evaluation import EvaluateStage
    from trivium.report.terminal import show

    if not any(isinstance(stage, EvaluateStage | SmallerStage) for stage in recipe.stages.values()):
        return
    result = gathered(recipe, places, only)
    if result["models"] or result["smaller"]:
        folder = places["runs_folder"] / recipe.name
        show(result)
        print(f"saved: {folder / 'report.html'}, {folder / 'report.json'}")


def training() -> Sequence[str]:
    """The kinds of stages that `train` runs: all that a recipe may have."""
    from trivium.recipe.models import TRAINING

    return tuple(TRAINING)


def step(
    path: Path,
    overrides: Sequence[str] | None,
    store: str,
    runs: Path,
    stages: Sequence[str] | None,
    kinds: Sequence[str],
) -> None:
    """`run` for the named stages, which must be of `kinds`, or for every stage of those kinds."""
    recipe = load(path, overrides)
    fitting = [name for name, stage in recipe.stages.items() if stage.kind in kinds]
    wrong = [name for name in stages or () if name not in fitting]
    if wrong or not fitting:
        from trivium.recipe.lines import listed, nearest

        what = f"`{wrong[0]}` is no stage of this step" if wrong else "the recipe has no stage of this step"
        hint = nearest(wrong[0], fitting) if wrong else ""
        fix = f"{hint}this command runs stages of kind {listed(kinds)}; here: {listed(fitting)}"
        raise RecipeError(what, where=str(path), fix=fix)
    run(path, overrides, store, runs, list(stages or fitting))


def quality_train(good: Path, crawl: Path, out: Path, buckets: int, documents: int, seed: int) -> None:
    from trivium.corpus.steps.quality_train import train

    made = train(good, crawl, out, buckets=buckets, seed=seed, most=documents)
    table = Table(
        title=f"{out}: accuracy {made['accuracy']:.1%}, AUC {made['auc']:.3f} on {made['heldout']} held out"
    )
    for column in ("share of documents below", "good", "crawl"):
        table.add_column(column, justify="right")
    for share, good_score in made["quantiles"]["good"].items():
        table.add_row(f"{float(share):.0%}", f"{good_score:.3f}", f"{made['quantiles']['crawl'][share]:.3f}")
    Console(highlight=False).print(table)


def inspect(artifact: Path, page: Path | None) -> None:
    """Prints the account of a data artifact; writes it as HTML to `page`."""
    from trivium.report import data

    account = data.load(artifact)
    data.show(account)
    if page is not None:
        files.write_text(page, data.html(account))
        print(f"saved: {page}")


def check_checkpoint(checkpoint: Path) -> None:
    if re.match(r"[a-z0-9]{2,}:/", str(checkpoint)):
        raise ArtifactError(
            "a model is read from a folder, not from a URL",
            where=str(checkpoint),
            fix="trivium store get RECIPE/STAGE --store URL brings it here and prints its folder",
        )
    if checkpoint.suffix != ".gguf" and not (checkpoint / "config.json").is_file():
        raise ArtifactError(
            f"there is no checkpoint at {checkpoint}",
            where=str(checkpoint),
            fix="give the folder or link of a trained stage, such as runs/quickstart/aligned",
        )


def chat(
    checkpoint: Path | None,
    prompt: str | None,
    system: str | None,
    seed: int,
    explicit: Mapping[str, float | None],
    server: tuple[str | None, str | None, str | None],
) -> None:
    """`explicit`: fields of `Generation` by name; what is None there is as the checkpoint's generation_config.json, or the
    server, says. `server`: its address, its name of the model, the environment variable with its key."""
    url, named, key = server
    if (checkpoint is None) == (url is None):
        raise RecipeError(
            "there has to be a checkpoint or a server, and one of them", fix="trivium chat CHECKPOINT"
        )
    given: dict[str, Any] = {name: value for name, value in explicit.items() if value is not None}
    if checkpoint is not None:
        check_checkpoint(checkpoint)
    from trivium import talk

    session: talk.Talk
    if checkpoint is None:
        from trivium.generate.streaming import Streaming

        assert url is not None
        if "max_new_tokens" in given:
            given["max_tokens"] = given.pop("max_new_tokens")
        session = talk.RemoteSession(Streaming(url, named, key), given, system=system, seed=seed)
    else:
        from trivium.imports import open_checkpoint
        from trivium.model import generation
        from trivium.recipe.network import Generation

        drawn = (generation.read(checkpoint) or Generation()).model_copy(update=given)
        session = talk.Session(*open_checkpoint(checkpoint), drawn, system=system, seed=seed)
    if prompt is None:
        session.run(input)
    else:
        session.reply(prompt)


def lineage(artifact: str, store: str) -> None:
    from trivium.pipeline.lineage import lineage as trace
    from trivium.pipeline.lineage import render
    from trivium.pipeline.store import opened

    Console(highlight=False).print(render(trace(artifact, opened(store))))


def folder_with(file: str, run: str, runs: Path) -> Path | None:
    """The folder of a run by its name in `runs`, or by its own path, that holds `file`."""
    return next((folder for folder in (runs / run, Path(run)) if (folder / file).is_file()), None)


def report(run: str, runs: Path) -> None:
    """Prints the report of a run, by its name or folder, or of a release, by its folder."""
    from trivium.report.terminal import show

    folder = folder_with("report.json", run, runs)
    if folder is None:
        raise ArtifactError(
            f"there is no report of {run}",
            where=str(runs / run),
            fix="run a recipe that measures something (`evaluate`, `quantize`), then give its name, or a folder",
        )
    show(json.loads((folder / "report.json").read_text(encoding="utf-8")))


def schema() -> None:
    from trivium.recipe.schema import schema as build

    print(json.dumps(build(), indent=2))


def init(name: str, force: bool) -> None:
    from trivium.recipe.schema import starter

    if not re.fullmatch(r"[a-z][a-z0-9_-]*", name):
        raise RecipeError(
            f"`{name}` is no valid name",
            where="trivium init NAME",
            fix="write small letters, digits, `-` and `_`, a letter first, such as my-model",
        )
    path = Path(f"{name}.yaml")
    if path.exists() and not force:
        raise RecipeError(
            f"{path} is there already", where=str(path), fix="choose another name, or replace it with --force"
        )
    files.write_text(path, starter(name))
    print(f"wrote {path}; next: trivium plan {path}")


def version() -> None:
    from importlib.metadata import version as installed

    print(f"trivium {installed('trivium')}")
