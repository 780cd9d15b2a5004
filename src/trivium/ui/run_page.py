"""One run: its stages as a picture, curves while they grow, samples, data, evaluation, log."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nicegui import ui

from trivium.console import duration, moment
from trivium.errors import TriviumError
from trivium.evaluate.rows import Row
from trivium.report import data
from trivium.report.runs import RunLog, Stage
from trivium.report.table import gate_lines, lines
from trivium.ui.parts import SECONDS, Place, frame, missing, table
from trivium.ui.pictures import AXES, ancestry, chart, graph, waterfall

ROWS = 200
"""Evaluation rows shown at once; the search goes through all."""


def register(place: Place) -> None:
    @ui.page("/run/{name}", title="Trivium: run")
    async def run(name: str) -> None:
        frame(name)
        try:
            log = place.log(name)
        except KeyError:
            missing(f"There is no run {name!r} in {place.runs}.")
            return
        await place.read([log])
        live: list[Callable[[], None]] = []
        headline = ui.label().classes("text-h6")
        with ui.tabs() as tabs:
            names = ("Stages", "Curves", "Samples", "Data", "Evaluation", "Lineage", "Log")
            made = {label: ui.tab(label) for label in names}
        with ui.tab_panels(tabs, value=made["Stages"]).classes("w-full"):
            for label, show in zip(
                names, (_stages, _curves, _samples, _data, _evaluation, _lineage, _log), strict=True
            ):
                with ui.tab_panel(made[label]):
                    show(place, log, live)

        def refresh(first: bool = False) -> None:
            if log.refresh() or first:
                headline.text = _headline(log)
                for update in live:
                    update()

        refresh(first=True)
        ui.timer(SECONDS, refresh)


def _headline(log: RunLog) -> str:
    running = [stage for stage in log.stages.values() if stage.status == "running"]
    left = f", {running[0].name}: {duration(running[0].left)} left" if running and running[0].left else ""
    return f"{log.name}: {log.state}{left}; last event {moment(log.last)}"


def _stages(place: Place, log: RunLog, live: list[Callable[[], None]]) -> None:
    def cells() -> list[tuple[Any, ...]]:
        return [
            (
                stage.name,
                stage.kind,
                stage.status,
                "" if stage.seconds is None else duration(stage.seconds),
                f"{stage.step:,} of {stage.steps:,}" if stage.steps else stage.progress,
                "; ".join(stage.reasons) if stage.status != "cached" else "up to date",
                stage.error.splitlines()[0] if stage.error else "",
            )
            for stage in log.stages.values()
        ]

    shown = table(("stage", "kind", "state", "took", "how far", "why it ran", "error"), cells())

    picture = ui.mermaid(graph(log)).classes("w-full")

    def update() -> None:
        picture.set_content(graph(log))
        shown.rows = [
            {"id": nth, **{str(n): c for n, c in enumerate(row)}} for nth, row in enumerate(cells())
        ]
        shown.update()

    live.append(update)


def _curves(place: Place, log: RunLog, live: list[Callable[[], None]]) -> None:
    def trained() -> list[Stage]:
        return [stage for stage in log.stages.values() if stage.curves]

    if not trained():
        ui.label("No stage has trained yet.")
        return
    state: dict[str, Any] = {
        "stage": trained()[-1].name,
        "metrics": ["loss"],
        "axis": "step",
        "smoothing": 0.0,
        "log": False,
    }

    def options() -> dict[str, Any]:
        stage = log.stages[state["stage"]]
        chosen = {m: (stage.curves[m], stage.tokens_per_step) for m in state["metrics"] if m in stage.curves}
        named = ", ".join(chosen) or "nothing"
        return chart(chosen, metric=named, axis=state["axis"], smoothing=state["smoothing"], log=state["log"])

    with ui.row().classes("items-center"):
        stages = ui.select([stage.name for stage in trained()], label="stage").bind_value(state, "stage")
        metrics = ui.select(list(trained()[-1].curves), label="metrics", multiple=True).bind_value(
            state, "metrics"
        )
        metrics.classes("min-w-64").props("use-chips")
        axis = ui.select(dict(AXES), label="x").bind_value(state, "axis")
        ui.label("smoothing")
        smoothing = ui.slider(min=0, max=0.99, step=0.01).bind_value(state, "smoothing").classes("w-32")
        log_axis = ui.switch("log y").bind_value(state, "log")
    drawn = ui.echart(options()).classes("w-full").style("height: 460px")

    def update() -> None:
        stages.options = [stage.name for stage in trained()]
        metrics.options = list(log.stages[state["stage"]].curves)
        metrics.update()
        drawn.options.clear()
        drawn.options.update(options())
        drawn.update()

    for control in (stages, metrics, axis, smoothing, log_axis):
        control.on_value_change(update)
    live.append(update)


def _samples(place: Place, log: RunLog, live: list[Callable[[], None]]) -> None:
    written = [stage for stage in log.stages.values() if stage.samples]
    if not written:
        ui.label("No stage has written samples yet.")
    for stage in written:
        with ui.expansion(f"{stage.name}: {len(stage.samples)} times", value=stage is written[-1]).classes(
            "w-full"
        ):
            cells = [
                (look["step"], sample.get("prompt", ""), sample.get("text", ""))
                for look in reversed(stage.samples)
                for sample in look["samples"]
            ]
            table(("step", "prompt", "what the model wrote"), cells, pagination=20)


def _data(place: Place, log: RunLog, live: list[Callable[[], None]]) -> None:
    stages = [stage for stage in log.stages.values() if (log.folder / stage.name / "account.json").is_file()]
    if not stages:
        ui.label("No data stage is done yet.")
    for stage in stages:
        with ui.expansion(stage.name, value=stage is stages[0]).classes("w-full"):
            try:
                account = data.load(log.folder / stage.name)
            except TriviumError as error:
                missing(str(error))
                continue
            cells = [
                (
                    s.get("kind"),
                    s.get("license"),
                    s.get("train_items", s.get("items")),
                    _share(s.get("realised_share")),
                )
                for s in account["sources"]
            ]
            table(("source", "licence", "items", "share"), cells)
            steps = data.steps(account)
            if steps:
                ui.echart(waterfall(steps)).classes("w-full").style(f"height: {80 + 32 * len(steps)}px")
                table(
                    ("step", "in", "kept", "why dropped"),
                    [(s.name, s.documents_in, s.documents_out, _counts(s.reasons)) for s in steps],
                )
            for rejected in account.get("samples", ()):
                if isinstance(rejected, dict):
                    with ui.row():
                        ui.badge(str(rejected.get("step", "dropped")))
                        ui.label(str(rejected.get("reason", "")))
                        ui.label(str(rejected.get("text", ""))[:400]).classes("text-grey")
            if account["letters"]:
                table(
                    ("dead letter", "why"),
                    [(str(x.get("id", x))[:200], str(x.get("error", ""))) for x in account["letters"]],
                )


def _evaluation(place: Place, log: RunLog, live: list[Callable[[], None]]) -> None:
    file = log.folder / "report.json"
    if file.is_file():
        report = json.loads(file.read_text(encoding="utf-8"))
        table(("held out", *report["models"]), [(line.label, *line.cells) for line in lines(report)])
        gates = [(g.stage, g.bound, g.value, g.result, g.reason) for g in gate_lines(report)]
        if gates:
            table(("gates of", "bound", "found", "result", "why"), gates)
    evaluated = [
        stage.name for stage in log.stages.values() if (log.folder / stage.name / "rows.parquet").is_file()
    ]
    if not evaluated:
        ui.label("No evaluation is done yet.")
    for name in evaluated:
        with ui.expansion(f"{name}: every row").classes("w-full") as opened:
            _rows(log.folder / name, opened)


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


def _lineage(place: Place, log: RunLog, live: list[Callable[[], None]]) -> None:
    from trivium.pipeline.lineage import lineage

    made = [
        stage.name for stage in log.stages.values() if (log.folder / stage.name / "artifact.json").is_file()
    ]
    if not made:
        ui.label("No stage is done yet.")
        return
    area = ui.column().classes("w-full")

    def draw(name: str) -> None:
        area.clear()
        with area:
            try:
                ui.mermaid(ancestry(lineage(log.folder / name, place.store).as_dict())).classes("w-full")
            except TriviumError as error:
                missing(str(error))

    ui.select(made, value=made[-1], label="of", on_change=lambda event: draw(event.value))
    draw(made[-1])


def _log(place: Place, log: RunLog, live: list[Callable[[], None]]) -> None:
    def cells() -> list[tuple[Any, ...]]:
        return [
            (str(event.get("time", ""))[:19].replace("T", " "), event["stage"], str(event.get("message", "")))
            for event in reversed(log.messages)
        ]

    table(("when", "stage", "message"), cells(), pagination=50)


def _share(value: Any) -> str:
    return f"{value:.1%}" if isinstance(value, int | float) else ""


def _counts(reasons: dict[str, int]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in reasons.items() if count)
