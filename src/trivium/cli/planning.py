"""The options of `trivium plan`, and which of them go together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trivium.cli.options import RUNS, STORE, Override, Recipe, RunsFolder, StoreFolder
from trivium.errors import RecipeError

On = Annotated[
    str | None,
    typer.Option("--on", metavar="CLUSTER", help="On these devices instead: 8xH100, or a YAML file."),
]
Gpus = Annotated[int | None, typer.Option("--gpus", help="--on: so many devices.")]
Budget = Annotated[
    float | None,
    typer.Option("--budget", metavar="USD", help="--on: exit code 5 if it is expected to cost more."),
]
Deadline = Annotated[
    str | None,
    typer.Option(
        "--deadline",
        metavar="TIME",
        help="--on: exit code 5 if it takes longer (3d, 12h); without a count, as many devices as it needs.",
    ),
]
Explain = Annotated[
    str | None,
    typer.Option(
        "--explain", metavar="STAGE.QUANTITY", help="--on: what a number was made from: base.minutes."
    ),
]
Plain = Annotated[bool, typer.Option("--json", help="--on, --dry-run: plain values for programs.")]
Page = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE", help="--on: a page with timeline, memory, roofline and cost."),
]
Beside = Annotated[
    list[str] | None,
    typer.Option(
        "--beside",
        metavar="WHAT",
        help="--on: a second plan, and why it differs: a field (base.batch=64), a cluster (64xH200) or a recipe; repeatable.",
    ),
]
Calibrate = Annotated[
    bool,
    typer.Option("--calibrate", help="Take real steps of each training stage here first (a minute or two)."),
]
Learn = Annotated[
    bool,
    typer.Option("--learn", help="Keep what the stages that have run here took, and correct minutes by it."),
]
Ladder = Annotated[
    bool,
    typer.Option("--ladder", help="Train small models of the recipe, and say what its own run would reach."),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Take a step of the real network on ranks that are not there; count what it holds and sends.",
    ),
]
Ranks = Annotated[
    int | None, typer.Option("--ranks", metavar="N", help="--dry-run: on so many, for `parallel: auto`.")
]


def plan(
    recipe: Recipe,
    override: Override = None,
    on: On = None,
    gpus: Gpus = None,
    budget: Budget = None,
    deadline: Deadline = None,
    explain: Explain = None,
    as_json: Plain = False,
    page: Page = None,
    beside: Beside = None,
    calibrate: Calibrate = False,
    learn: Learn = False,
    ladder: Ladder = False,
    dry: DryRun = False,
    ranks: Ranks = None,
    store: StoreFolder = STORE,
    runs: RunsFolder = RUNS,
) -> None:
    """Show what a run would do: stages, what is cached or why not, parameters, tokens, FLOPs, minutes.

    Runs nothing but a matrix product for about a second, to measure this machine (once). With --on: whether it fits there and in
    which layout, memory by cause, and time, cost and energy as low, expected and high.

    Examples:

      trivium plan mine.yaml

      trivium plan mine.yaml -o base.tokens=10M --calibrate

      trivium plan mine.yaml --on 8xH100 --explain base.minutes

      trivium plan mine.yaml --on H100 --deadline 3d --budget 5000

      trivium plan mine.yaml --on 64xH100 --beside 64xH200 --beside base.recompute=none

      trivium plan mine.yaml --dry-run --ranks 1024
    """
    from trivium.cli import beside as comparing
    from trivium.cli import dry_run as counting
    from trivium.cli import ladder as climbing
    from trivium.cli import plan as plans

    about = (gpus, budget, deadline, explain, as_json, page)
    others = any((gpus, budget, deadline, explain, page, calibrate, learn, beside))
    rest = "ask the plan for the rest"
    if (dry or ranks is not None) and (not dry or others or ladder):
        raise RecipeError("--dry-run goes with --ranks, --on and --json only", fix=rest)
    if ladder and (others or as_json or on):
        raise RecipeError("--ladder goes alone", fix=rest)
    if dry:
        counting.dry_run(recipe, override, on, ranks, as_json)
    elif beside:
        alone = not any((budget, deadline, explain, page, calibrate, learn))
        comparing.beside(recipe, override or (), store, runs, on if alone else None, gpus, beside, as_json)
    elif ladder:
        climbing.ladder(recipe, override, store, runs)
    else:
        plans.plan(recipe, override, store, runs, on, about, calibrate, learn)
