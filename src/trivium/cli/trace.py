"""`trivium trace` on the command line. Nothing heavy is imported."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from trivium.cli.options import STORE, StoreFolder
from trivium.errors import DataError

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A model's folder or link, or (the start of) a fingerprint.", show_default=False
    ),
]
Reply = Annotated[
    str | None, typer.Argument(metavar="[REPLY]", help="The text to trace.", show_default=False)
]
File = Annotated[
    Path | None,
    typer.Option("--file", metavar="FILE", help="Trace the text in a file (- for standard input)."),
]
Least = Annotated[int, typer.Option(min=1, help="Tokens of the shortest span that is told.")]
Documents = Annotated[int, typer.Option(min=1, help="Documents that are named for a span; all are counted.")]
Near = Annotated[
    int,
    typer.Option(min=0, help="For each paragraph, also this many documents that say nearly the same."),
]
Licence = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="Look at documents under this licence alone (`unknown`: those without). Repeat for more.",
    ),
]
Page = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE", help="Write a page with the reply's spans highlighted."),
]
Ahead = Annotated[
    bool,
    typer.Option("--index", help="Trace nothing: make the indexes (with --near the signatures) beforehand."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]


def trace(
    model: Model,
    reply: Reply = None,
    file: File = None,
    least: Least = 8,
    documents: Documents = 5,
    near: Near = 0,
    licence: Licence = None,
    page: Page = None,
    index: Ahead = False,
    as_json: AsJson = False,
    store: StoreFolder = STORE,
) -> None:
    """Show where a reply stands verbatim in what a model was trained on: documents, licences, the stages that read them.

    The first time an index of the training data is made, which is kept; `--index` makes it beforehand.

    Examples:

      trivium trace runs/quickstart/aligned "Return the sum of a start value plus an iterable of numbers"

      trivium trace runs/quickstart/aligned --file reply.txt --html reply.html

      trivium trace runs/quickstart/aligned --file reply.txt --near 3
    """
    if index:
        _make(model, reply, file, near > 0, as_json, store)
        return
    text = _text(reply, file)
    from trivium.pipeline.store import opened
    from trivium.pipeline.trained import traced
    from trivium.report import trace as shown

    report = traced(
        model,
        opened(store),
        text,
        _tell,
        least=least,
        documents=documents,
        near=near,
        licences=licence or (),
    )
    if page is not None:
        from trivium import files

        files.write_text(page, shown.html(report))
    if as_json:
        print(json.dumps(report, indent=2, ensure_ascii=False))
        return
    shown.show(report)
    if page is not None:
        print(f"saved: {page}")


def _make(model: str, reply: str | None, file: Path | None, near: bool, as_json: bool, store: str) -> None:
    """The indexes alone, and what they are over."""
    if reply is not None or file is not None:
        raise DataError(
            "--index traces no reply", fix="first trivium trace MODEL --index, then the reply without it"
        )
    from trivium.pipeline.store import opened
    from trivium.pipeline.trained import searched

    corpora, unknown = searched(model, opened(store), _tell, near=near)
    made = [
        {"data": one.trained.stage, "tokens": one.index.tokens, "blocks": len(one.index.blocks)}
        for one in corpora
    ]
    if as_json:
        print(json.dumps({"indexes": made, "unknown": unknown}, indent=2, ensure_ascii=False))
        return
    for one in made:
        print(f"{one['data']}: {one['tokens']:,} tokens, blocks: {one['blocks']}")
    for what in unknown:
        print(f"not known: {what}")


def _tell(event: dict[str, Any], /) -> None:
    if event.get("event") == "message":
        print(event["message"], file=sys.stderr)


def _text(reply: str | None, file: Path | None) -> str:
    if (reply is None) == (file is None):
        raise DataError(
            "there has to be a reply or a file, and one of them", fix='trivium trace MODEL "a reply"'
        )
    if reply is not None:
        return reply
    assert file is not None
    try:
        return sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"the reply cannot be read: {error}", where=str(file), fix="give a file of text in UTF-8"
        ) from None
