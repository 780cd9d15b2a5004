"""How commands print tables: for people on a terminal, as plain lines with tabs for programs that read them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from trivium.report.table import Line

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "") -> None:
    """Text only: nothing in a cell is taken for markup."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not sys.stdout.isatty():
        if title:
            print(f"# {title}")
        print("\t".join(columns))
        for row in rows:
            print("\t".join(" ".join(str(cell).split()) for cell in row))
        return
    shown = Table(*columns, box=None, pad_edge=False, title=title or None, title_justify="left")
    for row in rows:
        shown.add_row(*(Text(str(cell)) for cell in row))
    Console().print(shown)


def figures(heading: str, names: Sequence[str], lines: Sequence[Line]) -> None:
    """What was measured, a column for each of `names`. The best of a line is bold on a terminal, and followed by * elsewhere."""
    from rich.console import Console

    from trivium.report import terminal

    if sys.stdout.isatty():
        console = Console(highlight=False)
        console.print(*terminal.figures(heading, names, lines, console.width), sep="\n")
        return
    rows = [[f"{cell} *" if n == line.best else cell for n, cell in enumerate(line.cells)] for line in lines]
    table((heading, *names), [(line.label, *row) for line, row in zip(lines, rows, strict=True)])
