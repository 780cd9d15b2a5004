"""`trivium sweep`: a recipe over a grid of values and seeds, through the store."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trivium import files
from trivium.cli import commands
from trivium.cli.options import RUNS, STORE, Recipe, RunsFolder, StoreFolder
from trivium.cli.output import AsJson, table
from trivium.errors import GateError, Interrupted, RecipeError, TriviumError

if TYPE_CHECKING:
    from trivium.pipeline.sweep import Found, Point


def sweep(
    recipe: Recipe,
    override: Annotated[
        list[str] | None,
        typer.Option(
            "-o",
            "--override",
            metavar="STAGE.FIELD=VALUE,VALUE",
            help="A field and its values: an axis of the grid. With one value: replaced in all runs.",
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, help="Runs at each place of the grid, each with a seed of its own.")
    ] = 1,
    by: Annotated[
        str | None,
        typer.Option(
            metavar="STAGE.METRIC",
            help="What decides, such as aligned.bits_per_byte; else the last stage's loss.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run, and run nothing.")] = False,
    store: StoreFolder = STORE,
    runs: RunsFolder = RUNS,
    as_json: AsJson = False,
) -> None:
    """Run a recipe over a grid of values and seeds, and say which is best and whether it is by more than chance.

    Stages that runs share are made once. A stopped sweep goes on with the same command; a run that fails is told and left.

    Examples:

      trivium sweep mine.yaml -o base.lr=1e-3,2e-3,4e-3 --seeds 3

      trivium sweep mine.yaml -o aligned.beta=0.05,0.1 -o aligned.lr=1e-5,2e-5 --by aligned.win_rate
    """
    points, loaded, told = _grid(recipe, override or (), seeds, by)
    _announce(points, loaded, commands.places_of(recipe, store, runs), quiet=as_json)
    if not dry_run:
        _run_all(points, loaded, told, commands.places_of(recipe, store, runs), as_json)


def _grid(
    recipe: Recipe, override: Sequence[str], seeds: int, by: str | None
) -> tuple[list[Point], dict[str, Any], Callable[[Sequence[Found]], dict[str, Any]]]:
    """The runs, their recipes by name (all mistakes are found here), and what makes the account of what came of them."""
    from trivium.pipeline import sweep as grids

    fixed, axes = grids.axes_of(override)
    whole = commands.load(recipe, fixed)
    metric = by or grids.usual(whole)
    if metric.split(".")[0] not in whole.stages or "." not in metric:
        fix = f"write STAGE.METRIC, such as {grids.usual(whole)}; stages: {', '.join(whole.stages)}"
        raise RecipeError(f"`{metric}` is no metric of a stage", where="--by", fix=fix)
    points = grids.points(whole, fixed, axes, seeds)
    loaded = {point.name: commands.load(recipe, point.overrides) for point in points}
    return points, loaded, lambda found: _told(whole.name, axes, seeds, metric, found)


def _run_all(
    points: Sequence[Point],
    loaded: dict[str, Any],
    told: Callable[[Sequence[Found]], dict[str, Any]],
    places: dict[str, Any],
    as_json: bool,
) -> None:
    found: list[Found] = []
    failed: dict[str, str] = {}
    for nth, point in enumerate(points, 1):
        if not as_json:
            print(f"[{nth} of {len(points)}] {point.name}")
        found.append(_run(point, loaded[point.name], places, failed, as_json))
        account = told(found)
        file = places["runs_folder"] / f"{account['recipe']}.sweep.json"
        files.write_json(file, account)
    if as_json:
        print(json.dumps(account))
    else:
        _print(account, found)
        print(f"saved: {file}")
    if all(one.error and not one.metrics for one in found):
        raise TriviumError(f"none of the {len(found)} runs ended well", where=str(file), fix=found[-1].error)
    metric = account["metric"]
    if not any(metric in one.metrics for one in found):
        known = sorted({name for one in found for name in one.metrics})
        raise RecipeError(
            f"no run measured `{metric}`", where="--by", fix=f"measured were: {', '.join(known)}"
        )


def _announce(points: Sequence[Point], loaded: dict[str, Any], places: dict[str, Any], quiet: bool) -> None:
    """How many stages the runs have, how many of them are one and the same, and how many are there."""
    from trivium.pipeline.run import status

    stages = [stage for point in points for stage in status(loaded[point.name], **places)]
    distinct = {stage.fingerprint: stage.cached for stage in stages}
    there = sum(distinct.values())
    if not quiet:
        print(
            f"{len(points)} runs with {len(stages)} stages, of which {len(distinct)} are different: "
            f"{there} are there, {len(distinct) - there} are to be made"
        )
        table(
            ("run", "seed", "values"),
            [(p.name, p.seed, ", ".join(f"{k}={v}" for k, v in p.values.items())) for p in points],
        )


def _run(point: Point, recipe: Any, places: dict[str, Any], failed: dict[str, str], quiet: bool) -> Found:
    """`failed`: fingerprint -> error of stages that failed in this sweep; a run that shares one of them is not tried."""
    from trivium.console import Progress
    from trivium.pipeline import run as pipeline
    from trivium.pipeline.sweep import Found, measured

    shared = next((s for s in pipeline.status(recipe, **places) if s.fingerprint in failed), None)
    if shared is not None:
        return Found(point, error=f"stage {shared.name} failed before: {failed[shared.fingerprint]}")
    error = ""
    with Progress() as progress:

        def tell(event: dict[str, Any], /) -> None:
            if event["event"] == "stage_failed" and "fingerprint" in event:
                failed[event["fingerprint"]] = str(event["error"]).splitlines()[0]
            if not quiet:
                progress(event)

        try:
            pipeline.run(recipe, **places, emit=tell)
        except Interrupted:
            raise
        except GateError as gate:  # the figures are there all the same
            error = gate.what
        except TriviumError as stopped:
            return Found(point, error=stopped.what)
    return Found(point, measured(commands.gathered(recipe, places)), error)


def _told(
    name: str, axes: dict[str, list[str]], seeds: int, metric: str, found: Sequence[Found]
) -> dict[str, Any]:
    import dataclasses

    from trivium.pipeline.sweep import better, outcome, verdict

    places = outcome(found, metric)
    return {
        "recipe": name,
        "axes": axes,
        "seeds": seeds,
        "metric": metric,
        "better": "more" if better(metric) > 0 else "less",
        "places": [dataclasses.asdict(place) for place in places],
        "verdict": verdict(places, metric),
        "runs": [one.as_dict() for one in found],
    }


def _print(told: dict[str, Any], found: Sequence[Found]) -> None:
    rows = []
    for place in told["places"]:
        ends = "" if place["low"] is None else f"[{place['low']:.4g}, {place['high']:.4g}]"
        behind = "" if place["behind"] is None else f"{place['behind']:.4g}"
        value = "–" if place["mean"] is None else f"{place['mean']:.4g}"
        rows.append(
            (
                *place["values"].values(),
                place["seeds"],
                value,
                ends,
                behind,
                "yes" if place["beaten"] else "no",
            )
        )
    print()
    table((*told["axes"], "seeds", told["metric"], "95% interval", "behind the best", "beaten"), rows)
    for one in found:
        if one.error:
            print(f"{one.point.name}: {one.error}")
    print(told["verdict"])
