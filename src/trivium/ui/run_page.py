"""One run: its stages as a picture, curves while they grow, samples, data, evaluation, log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nicegui import ui

from trivium.console import duration, moment
from trivium.errors import TriviumError
from trivium.report import data
from trivium.report.runs import RunLog
from trivium.ui import results
from trivium.ui.curves import Curves
from trivium.ui.parts import SECONDS, Place, Update, chart, frame, heading, missing, picture, rows_of, table
from trivium.ui.pictures import ancestry, graph, waterfall

TEXT = 2000
"""Characters of a dropped document that are shown."""


def register(place: Place) -> None:
    @ui.page("/run/{name}", title="Trivium: run")
    async def run(name: str, tab: str = "Stages") -> None:
        frame(name)
        try:
            log = place.log(name)
        except KeyError:
            missing(f"There is no run {name!r} in {place.runs}.")
            return
        await (place.look if tab == "Curves" else place.read)([log])
        headline = ui.label().classes("text-h6")
        with ui.tabs().props("mobile-arrows outside-arrows align=left").classes("w-full") as tabs:
            for label in TABS:
                ui.tab(label)
        with ui.tab_panels(tabs, value=tab if tab in TABS else "Stages").classes("w-full"):
            panels = {label: _Panel(label, place, log) for label in TABS}

        def refresh() -> None:
            log.refresh()
            show()

        def show() -> None:
            headline.text = _headline(log)  # that a run was killed is told by the clock alone
            panels[tabs.value].update()

        def turned() -> None:
            ui.run_javascript(
                f"history.replaceState(null, '', '?tab={tabs.value}')"
            )  # who reloads stays there
            refresh()

        tabs.on_value_change(turned)
        show()
        if log.partly:
            await ui.context.client.connected()
            await place.read([log])
        ui.timer(SECONDS, refresh)


class _Panel:
    """What a tab shows: drawn when it is opened, and anew when what it is made from has changed."""

    def __init__(self, label: str, place: Place, log: RunLog) -> None:
        self.show, self.made_from = TABS[label]
        self.place, self.log = place, log
        self.drawn: Any = None
        self.read = 0
        self.grow: Update | None = None
        with ui.tab_panel(label).classes("q-px-none"):
            self.area = ui.column().classes("w-full")

    def update(self) -> None:
        """After the log was read."""
        now = self.made_from(self.log)
        if self.drawn != [now]:
            self.drawn = [now]
            self.area.clear()
            with self.area:
                self.grow = self.show(self.place, self.log)
        elif self.grow is not None and self.read != self.log.read:
            self.grow()
        self.read = self.log.read


def _headline(log: RunLog) -> str:
    running = [stage for stage in log.stages.values() if stage.status == "running"]
    left = f", {running[0].name}: {duration(running[0].left)} left" if running and running[0].left else ""
    return f"{log.name}: {log.state}{left}; last event {moment(log.last)}"


def _stages(place: Place, log: RunLog) -> Update:
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
    drawn = picture(graph(log))
    plan = results.planned(place, log)

    def update() -> None:
        drawn.set_content(graph(log))
        shown.rows = rows_of(cells())
        plan()

    return update


def _curves(place: Place, log: RunLog) -> Update:
    return Curves([log])


def _samples(place: Place, log: RunLog) -> None:
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


def _data(place: Place, log: RunLog) -> None:
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
                    f"{s['train_items']:,}",
                    _share(s.get("realised_share")),
                )
                for s in account["sources"]
            ]
            table(("source", "licence", "items", "share"), cells)
            steps = data.steps(account)
            if steps:
                chart(waterfall(steps)).classes("w-full").style(f"height: {80 + 32 * len(steps)}px")
                table(
                    ("step", "in", "kept", "why dropped"),
                    [
                        (s.name, f"{s.documents_in:,}", f"{s.documents_out:,}", _counts(s.reasons))
                        for s in steps
                    ],
                )
            dropped = [
                (row["name"], reason, one["key"], one["text"][:TEXT])
                for row in account["steps"]
                for reason, found in row.get("samples", {}).items()
                for one in found
            ]
            if dropped:
                heading("Some of the documents that were dropped")
                table(("step", "because", "document", "text"), dropped, pagination=10)
            if account["letters"]:
                heading("Parts that could not be read")
                letters = [(x["where"], x.get("offset"), x["reason"]) for x in account["letters"]]
                table(("where", "offset", "reason"), letters)


def _lineage(place: Place, log: RunLog) -> None:
    from trivium.pipeline.lineage import lineage

    made = [
        stage.name for stage in log.stages.values() if (log.folder / stage.name / "artifact.json").is_file()
    ]
    if not made:
        ui.label("No stage is done yet.")
        return
    choice = ui.select(made, value=made[-1], label="of", on_change=lambda event: draw(event.value))
    area = ui.column().classes("w-full")

    def draw(name: str) -> None:
        area.clear()
        with area:
            try:
                picture(ancestry(lineage(log.folder / name, place.store).as_dict()))
            except TriviumError as error:
                missing(str(error))

    draw(choice.value)


def _log(place: Place, log: RunLog) -> None:
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


def _ended(log: RunLog) -> Any:
    return [(stage.name, stage.fingerprint, stage.status) for stage in log.stages.values()]


TABS: dict[str, tuple[Callable[[Place, RunLog], Update | None], Callable[[RunLog], Any]]] = {
    "Stages": (_stages, lambda log: None),
    "Curves": (_curves, lambda log: None),
    "Samples": (_samples, lambda log: [len(stage.samples) for stage in log.stages.values()]),
    "Data": (_data, _ended),
    "Evaluation": (results.evaluation, _ended),
    "Smaller": (results.smaller, _ended),
    "Lineage": (_lineage, _ended),
    "Log": (_log, lambda log: list(log.messages)[-1:]),
}
"""Tab -> (what draws it, and may give what lets it grow; what it has to be drawn anew for)."""
