"""A traced reply: printed with its spans in colours, and as one HTML page without scripts or links that load anything."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jinja2 import Environment

if TYPE_CHECKING:
    from rich.console import Console

COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "red")
"""Spans take turns with them, the most improbable first."""


class Piece(NamedTuple):
    """A run of the reply: the place among the spans of the first one it belongs to, None where it stands in no document."""

    text: str
    span: int | None


def pieces(report: Mapping[str, Any]) -> list[Piece]:
    """The reply cut where what it belongs to changes. Where spans overlap, the more improbable one has it."""
    reply: str = report["reply"]
    owner: list[int | None] = [None] * len(reply)
    for number in range(len(report["spans"]) - 1, -1, -1):
        span = report["spans"][number]
        owner[span["start"] : span["end"]] = [number] * (span["end"] - span["start"])
    cuts = [place for place in range(len(reply)) if not place or owner[place] != owner[place - 1]]
    return [
        Piece(reply[start:end], owner[start])
        for start, end in zip(cuts, [*cuts[1:], len(reply)], strict=True)
    ]


def name(document: Mapping[str, Any]) -> str:
    """What a document is called: its URL, or where it was read, or its key; and the text of a record it is."""
    called = document.get("url") or document.get("where") or document.get("key") or "a document"
    row = f", row {document['row']} {document['part']}" if "row" in document else ""
    return f"{called}{row}"


def terms(document: Mapping[str, Any]) -> str:
    """The source of a document, and its licence."""
    return f"{document.get('kind') or 'source'} ({document.get('license') or 'licence unknown'})"


def stages(document: Mapping[str, Any]) -> str:
    """Which stages read a document, and how often."""
    return ", ".join(
        f"{one['stage']} ({one['kind']}"
        + ("" if one["epochs"] is None else f", {one['epochs']:.3g} epochs")
        + ")"
        for one in document["stages"]
    )


def show(report: Mapping[str, Any]) -> None:
    """Prints the reply with its spans in colours, and each span with its documents."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    reply = Text()
    for text, number in pieces(report):
        reply.append(text, "" if number is None else f"bold {COLOURS[number % len(COLOURS)]}")
    console.print(reply, soft_wrap=True)
    for what in report["unknown"]:
        console.print(Text(f"not known: {what}", "yellow"))
    if report["spans"]:
        console.print(
            f"\n{report['verbatim']:.0%} of the reply stands verbatim in training data{_under(report)}"
        )
    else:
        console.print(
            f"\nno span of {report['least']} tokens or more stands in what is known of the training data{_under(report)}"
        )
    _spans(report, console)
    for one in report["near"]:
        start = _line(report["reply"][one["start"] : one["end"]])[:60]
        console.print(
            Text(f"\nnear to {start!r}:" if one["documents"] else f"\nnothing is near to {start!r}")
        )
        for document in one["documents"]:
            console.print(
                Text(f"   {document['similarity']:.0%} {name(document)}", "bold"),
                Text(f"   {document['data']}: {terms(document)}, character {document['character']}"),
                Text("   " + _line(document["passage"])[:120], "dim"),
                sep="\n",
                soft_wrap=True,
            )


def _under(report: Mapping[str, Any]) -> str:
    return f" under {', '.join(report['licences'])}" if report.get("licences") else ""


def _spans(report: Mapping[str, Any], console: Console) -> None:
    from rich.text import Text

    for number, span in enumerate(report["spans"]):
        places = "once" if span["count"] == 1 else f"{span['count']:,} times"
        head = f"\n{number + 1}. {span['tokens']} tokens, {places}, improbability {span['improbability']:.0f} nats"
        console.print(Text(head, f"bold {COLOURS[number % len(COLOURS)]}"))
        for document in span["documents"]:
            console.print(
                Text(f"   {name(document)}", "bold"),
                Text(
                    f"   {document['data']}: {terms(document)}, character {document['character']}; read by {stages(document)}"
                ),
                Text.assemble(
                    ("   …" + _line(document["before"])[-60:], "dim"),
                    (_line(span["text"]), COLOURS[number % len(COLOURS)]),
                    (_line(document["after"])[:60] + "…", "dim"),
                ),
                sep="\n",
                soft_wrap=True,
            )


def _line(text: str) -> str:
    return text.replace("\n", "⏎")


def html(report: Mapping[str, Any]) -> str:
    """The same as a page. All that stands in it is text of others: it is escaped."""
    template = (Path(__file__).parent / "trace.html.j2").read_text(encoding="utf-8")
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(template)
    return page.render(
        report=report, pieces=pieces(report), name=name, terms=terms, stages=stages, colours=len(COLOURS)
    )
