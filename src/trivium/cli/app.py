"""The command line. Everything heavy is imported inside the function that needs it."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from trivium import files
from trivium.cli import (
    arena,
    chat,
    commands,
    data,
    feedback,
    planning,
    router,
    serve,
    signing,
    trace,
    withdraw,
)
from trivium.cli import convert as conversions
from trivium.cli import doctor as examination
from trivium.cli import evaluate as evaluations
from trivium.cli import explain as explanations
from trivium.cli import runs as recorded
from trivium.cli import store as stores
from trivium.cli import sweep as sweeps
from trivium.cli import ui as pages
from trivium.cli.options import RUNS, STORE, Override, Recipe, RunsFolder, Stages, StoreFolder
from trivium.cores import wait_asleep
from trivium.errors import ArtifactError, RecipeError

SYNTHESIZE = ("synthesize",)
EVALUATE = ("evaluate",)

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done; 1 something else; 2 recipe or arguments; 3 data; 4 a damaged or missing "
    "artifact; 5 a gate did not pass; 6 training cannot go on; 130 stopped with Ctrl-C (run again to go on).",
)


@app.callback()
def main_options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Train a language model end to end: raw text in, an aligned, evaluated, quantised model out.

    [bold]Start here[/]

      trivium init mine                write a commented recipe, mine.yaml

      trivium plan mine.yaml           what would run, and what it costs

      trivium run mine.yaml            run it; again, and nothing is left to do

      trivium chat runs/mine/aligned   talk to a checkpoint
    """
    if debug:
        os.environ["TRIVIUM_DEBUG"] = "1"


@app.command()
def run(
    recipe: Recipe,
    override: Override = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="STAGE", help="Only this stage and what it needs. Repeat for more."),
    ] = None,
    store: StoreFolder = STORE,
    runs: RunsFolder = RUNS,
) -> None:
    """Run a whole recipe: every stage that is not up to date.

    Finished stages are kept and never run twice; a stopped run goes on from its last checkpoint.

    Examples:

      trivium run recipes/quickstart.yaml

      trivium run mine.yaml -o aligned.beta=0.2     re-runs aligned and what hangs on it

      trivium run mine.yaml --only vocab
    """
    commands.run(recipe, override, store, runs, only or None)


app.command()(planning.plan)


@app.command()
def train(
    recipe: Recipe,
    stages: Stages = None,
    override: Override = None,
    store: StoreFolder = STORE,
    runs: RunsFolder = RUNS,
) -> None:
    """Run the training stages of a recipe (pretrain, sft, dpo, grpo, ...), and what they need.

    Examples:

      trivium train mine.yaml             all of them

      trivium train mine.yaml base sft    these two
    """
    commands.step(recipe, override, store, runs, stages, commands.training())


app.add_typer(router.app, name="rollout")
app.add_typer(feedback.app, name="feedback")
app.add_typer(evaluations.app, name="evaluate")
app.add_typer(arena.app, name="arena")
app.command()(serve.serve)
app.command()(signing.sign)
app.command()(signing.verify)
app.command()(trace.trace)
app.command()(conversions.convert)
app.command()(withdraw.withdraw)
app.add_typer(stores.app, name="store")
app.command()(explanations.explain)
app.command()(examination.doctor)
app.command()(pages.ui)
for command in (recorded.runs, recorded.show, recorded.compare, recorded.watch, sweeps.sweep):
    app.command()(command)
app.add_typer(data.app, name="data")


@app.command()
def synthesize(
    recipe: Recipe,
    stages: Stages = None,
    override: Override = None,
    store: StoreFolder = STORE,
    runs: RunsFolder = RUNS,
) -> None:
    """Run the synthesize stages of a recipe (data that a teacher writes), and what they need.

    Stopped and run again it goes on where it was: no call to a teacher is made twice.

    Example:

      trivium synthesize mine.yaml traces && head -n 3 runs/mine/traces/train.jsonl
    """
    commands.step(recipe, override, store, runs, stages, SYNTHESIZE)


@evaluations.app.command("run")
def evaluate(
    recipe: Recipe,
    stages: Stages = None,
    override: Override = None,
    store: StoreFolder = STORE,
    runs: RunsFolder = RUNS,
) -> None:
    """Run the evaluate stages of a recipe, and what they need.

    Example:

      trivium evaluate mine.yaml safety
    """
    commands.step(recipe, override, store, runs, stages, EVALUATE)


app.command()(chat.chat)


@app.command()
def lineage(
    artifact: Annotated[
        str,
        typer.Argument(
            metavar="ARTIFACT", help="A folder, a link or (the start of) a fingerprint.", show_default=False
        ),
    ],
    store: StoreFolder = STORE,
) -> None:
    """Show what an artifact was made from, down to the sources and their licences.

    Example:

      trivium lineage runs/quickstart/release
    """
    from trivium.pipeline.lineage import lineage as trace
    from trivium.pipeline.lineage import render
    from trivium.pipeline.store import opened

    Console(highlight=False).print(render(trace(artifact, opened(store))))


@app.command()
def report(
    run: recorded.Run,
    runs: RunsFolder = RUNS,
) -> None:
    """Print the table that a run ended with: every phase, side by side.

    Example:

      trivium report quickstart
    """
    from trivium.report.terminal import show

    folder = commands.folder_with("report.json", run, runs)
    if folder is None:
        raise ArtifactError(
            f"there is no report of {run}",
            where=str(runs / run),
            fix="run a recipe that measures something (`evaluate`, `quantize`), then give its name, or a folder",
        )
    show(json.loads((folder / "report.json").read_text(encoding="utf-8")))


@app.command()
def schema() -> None:
    """Print the JSON Schema of recipes, for editors to complete and check them.

    Example:

      trivium schema > recipe.schema.json

    and at the top of a recipe:  # yaml-language-server: $schema=recipe.schema.json
    """
    from trivium.recipe.schema import schema as build

    print(json.dumps(build(), indent=2))


@app.command()
def init(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="The recipe's name; NAME.yaml is written.", show_default=False),
    ],
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Write a commented starter recipe that runs as it is.

    Example:

      trivium init mine && trivium plan mine.yaml
    """
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


@app.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as installed

    print(f"trivium {installed('trivium')}")


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and exits. An error for people has no traceback and an exit code of its own."""
    wait_asleep()
    sys.exit(commands.guarded(lambda: app(arguments, standalone_mode=True)))
