"""`trivium runs`, `show`, `compare`, `watch`: runs on the terminal, read from what they wrote."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trivium.cli import commands
from trivium.cli.options import RUNS, RunsFolder, names_of_runs
from trivium.cli.output import AsJson, figures, table
from trivium.errors import ArtifactError, TriviumError

if TYPE_CHECKING:
    from trivium.report.runs import RunLog

Run = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="A run's name, or its folder.",
        show_default=False,
        autocompletion=names_of_runs,
    ),
]
LOOK = 1.0
"""Seconds between two looks at a log that is watched."""


def runs(runs: RunsFolder = RUNS, as_json: AsJson = False) -> None:
    """List the runs, the newest first: their state, how far they are, and what a newer version would make anew.

    Example:

      trivium runs
    """
    from trivium.console import moment
    from trivium.pipeline.stages import STAGES
    from trivium.pipeline.stale import stale
    from trivium.report.runs import glance
    from trivium.report.runs import runs as found

    rows = []
    for folder in found(runs):
        seen = {**dataclasses.asdict(glance(folder)), "stale": sorted(stale(folder, STAGES))}
        if as_json:
            print(json.dumps(seen))
        rows.append(
            (
                seen["name"],
                seen["state"],
                seen["stage"],
                f"{seen['step']:,} of {seen['steps']:,}" if seen["steps"] else "",
                "" if seen["loss"] is None else f"{seen['loss']:.4f}",
                seen["made"],
                moment(seen["last"]),
                ", ".join(seen["stale"]),
            )
        )
    if not as_json:
        table(("run", "state", "stage", "step", "loss", "stages made", "last event", "stale"), rows)
        if not rows:
            print(f"There is no run in {runs} yet: trivium init demo && trivium run demo.yaml")


def show(run: Run, runs: RunsFolder = RUNS, as_json: AsJson = False) -> None:
    """Show a run: its stages, how each ended, its losses, what is stale, what was measured.

    Example:

      trivium show quickstart
    """
    from trivium.console import duration, moment, sparkline
    from trivium.pipeline.stages import STAGES
    from trivium.pipeline.stale import stale
    from trivium.report.compare import losses, metrics, report_of

    log = opened(run, runs)
    old, ends, report = stale(log.folder, STAGES), losses(log), report_of(log.folder)
    if as_json:
        stages = [
            {
                **{
                    key: getattr(stage, key)
                    for key in ("name", "kind", "status", "seconds", "error", "step", "steps")
                },
                "fingerprint": stage.fingerprint,
                "losses": ends.get(stage.name, {}),
                "stale": old.get(stage.name),
            }
            for stage in log.stages.values()
        ]
        models = None if report is None else report["models"]
        print(json.dumps({"name": log.name, "state": log.state, "stages": stages, "models": models}))
        return
    print(f"{log.name}: {log.state}, last event {moment(log.last)}")
    rows = []
    for stage in log.stages.values():
        curve = stage.curves["loss"].values if "loss" in stage.curves else ()
        took = "" if stage.seconds is None else duration(stage.seconds)
        end = ", ".join(f"{metric} {value:.4f}" for metric, value in ends.get(stage.name, {}).items())
        note = stage.error.splitlines()[0] if stage.error else old.get(stage.name, "")
        rows.append((stage.name, stage.kind, stage.status, took, end, sparkline(curve), note))
    table(("stage", "kind", "state", "took", "ended with", "loss", "note"), rows)
    if old:
        print(f"stale: {', '.join(old)}; `trivium run` with the recipe makes them anew")
    names, lines = metrics([log])
    if lines:
        print()
        figures("held out", [name.removeprefix(f"{log.name}: ") for name in names], lines)


def compare(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="Names or folders of runs.",
            show_default=False,
            autocompletion=names_of_runs,
        ),
    ],
    runs: RunsFolder = RUNS,
    as_json: AsJson = False,
) -> None:
    """Put runs beside each other: the fields in which their recipes differ, their losses, what was measured.

    The best value of a row stands out (bold; * where it is no terminal) if its interval and that of the worst do not touch.

    Example:

      trivium compare quickstart quickstart-wide
    """
    from trivium.report.compare import fields, losses, metrics, report_of

    logs = [opened(name, runs) for name in dict.fromkeys(names)]
    if len({log.name for log in logs}) < 2:
        raise TriviumError("there have to be two runs or more to compare", fix="trivium compare RUN RUN")
    differing, ends = fields(logs), {log.name: losses(log) for log in logs}
    if as_json:
        reports = {log.name: (report_of(log.folder) or {}).get("models") for log in logs}
        print(json.dumps({"fields": differing, "losses": ends, "models": reports}))
        return
    table(
        ("field that differs", *ends),
        [(path, *(_said(values[name]) for name in ends)) for path, values in differing.items()]
        or [("none", *("" for _ in ends))],
    )
    print()
    trained = dict.fromkeys(
        (stage, metric) for end in ends.values() for stage in end for metric in end[stage]
    )
    table(
        ("last", *ends),
        [
            (f"{stage}: {metric}", *(_number(end.get(stage, {}).get(metric)) for end in ends.values()))
            for stage, metric in trained
        ],
    )
    columns, lines = metrics(logs)
    if lines:
        print()
        figures("held out", columns, lines)


def watch(
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="A run's name or folder; else the newest.")
    ] = None,
    runs: RunsFolder = RUNS,
    silent: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Give up after so long without a word of the run.")
    ] = 600.0,
    as_json: AsJson = False,
) -> None:
    """Follow a run that another process, or another machine, makes, until it ends; exit code 1 if it failed or fell silent.

    Example:

      trivium watch quickstart
    """
    from trivium.console import Progress
    from trivium.report.runs import runs as found

    if run is None:
        newest = next(iter(found(runs)), None)
        if newest is None:
            raise ArtifactError(
                f"there is no run in {runs}", where=str(runs), fix="name another folder with --runs"
            )
        run = str(newest)
    folder = opened(run, runs, read=False).folder
    failed = None
    with Progress() as progress:
        for event in _events(folder / "events.jsonl", silent):
            if as_json:
                print(json.dumps(event), flush=True)
            else:
                progress(event)
            failed = event if event["event"] == "stage_failed" else failed
            if event["event"] == "stage_start":
                failed = None
    if failed is not None:
        raise TriviumError(f"stage {failed['stage']} failed: {failed.get('error', '')}", where=str(folder))


def _events(file: Path, silent: float) -> Iterator[dict[str, Any]]:
    """The events of the newest run in a log, old and new, up to its end; of the steps that are over only the last of a stage.

    TriviumError once nothing was written for `silent` seconds.
    """
    from trivium.report.steps import parsed

    rest, old = b"", True
    with file.open("rb") as stream:
        while True:
            *lines, rest = (rest + stream.read()).split(b"\n")
            told = [event for line in lines if (event := parsed(line)) is not None]
            if old:
                told, old = _latest(told), False
            for event in told:
                yield event
                if event["event"] in ("run_end", "stage_failed"):
                    return
            if not told and time.time() - file.stat().st_mtime > silent:
                raise TriviumError(
                    f"the run has written nothing for {silent:g} seconds: it was killed, or something in it takes longer",
                    where=str(file),
                    fix="wait longer with --silent, or give the command of the run again: it goes on where it stopped",
                )
            if not told:
                time.sleep(LOOK)


def _latest(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of the newest run in a log; of each stage's steps the last."""
    begins = max((n for n, event in enumerate(events) if event["event"] == "run_start"), default=0)
    events = events[begins:]
    last = {event.get("stage"): n for n, event in enumerate(events) if event["event"] == "step"}
    return [
        event for n, event in enumerate(events) if event["event"] != "step" or last[event.get("stage")] == n
    ]


def opened(run: str, runs: Path, read: bool = True) -> RunLog:
    """The log of a run by its name in `runs` or by its folder. ArtifactError if there is none."""
    from trivium.recipe.lines import nearest
    from trivium.report.runs import EVENTS, RunLog
    from trivium.report.runs import runs as found

    folder = commands.folder_with(EVENTS, run, runs)
    if folder is None:
        there = [path.name for path in found(runs)]
        hint = nearest(run, there) or (f"there are: {', '.join(there[:10])}" if there else "")
        raise ArtifactError(
            f"there is no run {run}", where=str(runs), fix=hint or "name a folder with --runs"
        )
    log = RunLog(folder.resolve())
    if read:
        log.refresh()
    return log


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _said(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
