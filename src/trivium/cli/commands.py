"""What several commands do: load, run, show. Everything heavy is imported inside the function that needs it."""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from trivium import files
from trivium.errors import ArtifactError, GateError, RecipeError, TriviumError

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


def folder_with(file: str, run: str, runs: Path) -> Path | None:
    """The folder of a run by its name in `runs`, or by its own path, that holds `file`."""
    return next((folder for folder in (runs / run, Path(run)) if (folder / file).is_file()), None)
