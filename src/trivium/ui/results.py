"""What came of a run: plan beside actual, the tables of its report, what smaller files cost, every row of an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nicegui import ui

from trivium.errors import TriviumError
from trivium.evaluate.rows import Row
from trivium.pipeline.forecast import forecast
from trivium.pipeline.record import previous
from trivium.plan.machine import known_rates
from trivium.recipe.models import Recipe
from trivium.report.compare import report_of
from trivium.report.runs import RunLog
from trivium.report.smaller import SMALLER, smaller_lines
from trivium.report.table import PLANNED, gate_lines, lines, source_lines
from trivium.ui.parts import Place, Update, chart, heading, rows_of, table
from trivium.ui.pictures import tradeoff

ROWS = 200
"""Evaluation rows shown at once; the search goes through all."""


def planned(place: Place, log: RunLog) -> Update:
    """Plan beside actual, as far as the run has come."""
    heading("Plan beside actual")
    note = ui.label()
    shown = table(PLANNED, _plan(place, log)[0])

    def draw() -> None:
        cells, said = _plan(place, log)
        note.text = said
        note.set_visibility(bool(said))
        shown.rows = rows_of(cells)

    draw()
    return draw


def _plan(place: Place, log: RunLog) -> tuple[list[tuple[str, ...]], str]:
    """The rows, and why there are none. The recipe is what the log says it was; a field that is gone since makes it none."""
    rates = known_rates(place.store.root / "machine.json")
    if rates is None:
        return [], "how fast this machine is was not measured yet: `trivium plan RECIPE` does it"
    stages = {stage.name: stage.config for stage in log.stages.values() if stage.config}
    made = {name: found for name in stages if (found := previous(log.folder / name)) is not None}
    try:
        recipe = Recipe.model_validate({"name": "recipe", "stages": stages})
        costs = forecast(recipe, place.store.root, made, rates)
    except (TriviumError, ValueError) as error:
        return [], f"there is no plan for it: {str(error).splitlines()[0]}"
    rows: list[tuple[str, ...]] = []
    for cost in costs:
        took = made[cost.stage].record["seconds"] / 60 if cost.stage in made else None
        if cost.minutes:
            ends = ("", "") if took is None else (f"{took:.1f}", f"{took / cost.minutes:.2f}")
            rows.append((cost.stage, f"{cost.minutes:.1f}", *ends))
    return rows, ""


def evaluation(place: Place, log: RunLog) -> None:
    report = report_of(log.folder)
    if report is not None:
        heading("Held out, with 95% intervals; * is the best, where it and the worst are apart")
        found = lines(report)
        marked = [
            (line.label, *(f"{cell} *" if n == line.best else cell for n, cell in enumerate(line.cells)))
            for line in found
        ]
        table(("metric", *report["models"]), marked)
        if gates := [tuple(gate) for gate in gate_lines(report)]:
            heading("Gates")
            table(("gates of", "bound", "found", "result", "why"), gates)
        if sources := source_lines(report):
            heading("Held-out loss by source")
            table(("phase", "source", "before → after", "share of what is held out"), sources)
    evaluated = [name for name in log.stages if (log.folder / name / "rows.parquet").is_file()]
    if not evaluated:
        ui.label("No evaluation is done yet.")
    for name in evaluated:
        with ui.expansion(f"{name}: every row").classes("w-full") as opened:
            _rows(log.folder / name, opened)


def smaller(place: Place, log: RunLog) -> None:
    """Size against what it costs, of every quantised or exported file."""
    report = report_of(log.folder)
    rows = smaller_lines(report) if report is not None else []
    if not report or not rows:
        ui.label("No model was made smaller in this run, or its report is not there yet.")
        return
    if options := tradeoff(report):
        chart(options).classes("w-full").style("height: 360px")
    else:
        ui.label(
            "Fewer than two files were measured against their model: give `quantize` and `export` some `data`."
        )
    table(tuple(SMALLER), [tuple(row) for row in rows])


def _rows(folder: Path, opened: Any) -> None:
    """The rows of an evaluation, read when they are asked for; the search looks into every row."""
    found: list[Any] = []
    search = ui.input("search in prompts, replies and reasons").classes("w-full")
    area = ui.column().classes("w-full")

    def draw() -> None:
        from trivium.evaluate.rows import prompt_text, read

        if not found:
            found.extend(read(folder))
        words = (search.value or "").lower()
        hits = [row for row in found if not words or words in _searched(row)]
        worst = sorted(hits, key=lambda row: ("miss", "undecided", "hit").index(row.outcome))
        cells = [
            (
                r.suite,
                r.model,
                r.judge,
                r.outcome,
                r.score,
                prompt_text(r)[-300:],
                (r.reply or "")[:600],
                r.reason,
            )
            for r in worst[:ROWS]
        ]
        area.clear()
        with area:
            ui.label(f"{len(hits):,} of {len(found):,} rows; the first {len(cells)} are shown")
            table(
                ("suite", "model", "judge", "outcome", "score", "prompt", "reply", "reason"),
                cells,
                pagination=25,
            )

    search.on("change", draw)
    opened.on_value_change(lambda event: draw() if event.value and not found else None)


def _searched(row: Row) -> str:
    return f"{row.prompt} {row.reply} {row.reason} {row.judge} {row.suite} {row.category}".lower()
