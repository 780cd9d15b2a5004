"""A traced reply on a page: its spans highlighted, the documents that each stands in, and those that are near to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nicegui import run, ui

from trivium.errors import TriviumError
from trivium.pipeline.store import Store
from trivium.pipeline.trained import traced
from trivium.report.trace import name, pieces, stages, terms
from trivium.trace.reply import LEAST
from trivium.ui.parts import missing

COLOURS = ("#22d3ee66", "#e879f966", "#facc1566", "#4ade8066", "#60a5fa66", "#f8717166")
"""Spans take turns with them, the most improbable first."""
DOCUMENTS, NEAR = 3, 2


async def trace(store: Store, model: str, reply: str, area: Any) -> None:
    """Traces a reply of the model at path `model` and shows it in `area`. What is wrong is said there."""
    area.clear()
    with area, ui.row():
        ui.spinner()
        ui.label("looking in the training data; the first time an index is made")
    try:
        report = await run.io_bound(
            traced, model, store, reply, lambda event: None, least=LEAST, documents=DOCUMENTS, near=NEAR
        )
    except TriviumError as error:
        area.clear()
        with area:
            missing(str(error))
        return
    if report is None:  # the app is ending
        return
    area.clear()
    with area:
        show(report)


def show(report: Mapping[str, Any]) -> None:
    """The report of `trivium.pipeline.trained.traced`. Texts of documents reach the page as text."""
    with ui.element("div").classes("traced").style("white-space: pre-wrap"):
        for text, number in pieces(report):
            label = ui.label(text).style("display: inline")
            if number is not None:
                label.classes("span").style(f"background: {_colour(number)}").tooltip(f"span {number + 1}")
    told = f"{report['verbatim']:.0%} of it stands verbatim in training data, in spans of {report['least']} tokens or more"
    ui.label(told).classes("text-caption")
    for what in report["unknown"]:
        ui.label(f"not known: {what}").classes("text-caption")
    for number, span in enumerate(report["spans"]):
        often = "once" if span["count"] == 1 else f"{span['count']:,} times"
        with ui.expansion(f"{number + 1}. {span['tokens']} tokens, {often}").style(
            f"background: {_colour(number)}"
        ):
            for document in span["documents"]:
                _document(document, f"read by {stages(document)}")
                ui.label(f"…{document['before']}{span['text']}{document['after']}…").style(
                    "white-space: pre-wrap"
                )
    near = [document for one in report["near"] for document in one["documents"]]
    if near:
        with ui.expansion("nearly the same"):
            for document in near:
                _document(document, f"{document['similarity']:.0%} alike")
                ui.label(document["passage"]).style("white-space: pre-wrap")


def _document(document: Mapping[str, Any], how: str) -> None:
    ui.label(name(document)).classes("text-weight-bold")
    ui.label(f"{document['data']}: {terms(document)}, {how}").classes("text-caption")


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]
