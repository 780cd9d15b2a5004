"""`trivium feedback`: what users said of a rollout's replies becomes data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trivium.errors import DataError, RecipeError

if TYPE_CHECKING:
    from trivium.rollout.log import State

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="rich", help="Votes of users, as data to align with."
)


@app.callback()
def _group() -> None:
    """So that `export` is named, though it is the only one."""


@app.command()
def export(
    log: Annotated[str, typer.Argument(metavar="LOG", help="The log of a rollout.", show_default=False)],
    texts: Annotated[
        Path, typer.Option(metavar="FILE", help="What `serve --texts` kept.", show_default=False)
    ],
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="Where the rows go (JSON lines).", show_default=False)
    ],
    kind: Annotated[
        str,
        typer.Option(
            help="`feedback`: thumbs, for kto. `preferences`: choices, edits and regenerations, for dpo."
        ),
    ] = "feedback",
    since: Annotated[
        str | None,
        typer.Option(metavar="AGE", help="Leave out what is older, such as 30d.", show_default=False),
    ] = None,
    keep_personal: Annotated[
        bool,
        typer.Option("--keep-personal", help="Replace no addresses, numbers and secrets by placeholders."),
    ] = False,
) -> None:
    """Make rows of users' votes that a data stage reads: `{kind: jsonl, path: FILE}` with `format: feedback` or `preferences`.

    Examples:

      trivium feedback export rollout.db --texts texts.jsonl --out thumbs.jsonl

      trivium feedback export rollout.db --texts texts.jsonl --kind preferences --since 30d --out pairs.jsonl
    """
    from datetime import UTC, datetime, timedelta

    from trivium import files
    from trivium.corpus.steps.pii import redact
    from trivium.recipe.steps import Pii
    from trivium.recipe.units import parse_duration
    from trivium.rollout import journal
    from trivium.rollout.export import joined, rows

    if kind not in ("feedback", "preferences"):
        raise RecipeError(f"there are no rows of {kind!r}", fix="--kind feedback, or --kind preferences")
    try:
        after = None if since is None else datetime.now(UTC) - timedelta(seconds=parse_duration(since))
    except ValueError as error:
        raise RecipeError(str(error), where="--since", fix="--since 30d") from None
    votes, state = joined(journal.events(log))
    clean = None if keep_personal else lambda text: redact(text, Pii())
    found, account = rows(kind, votes, journal.read(texts), since=after, clean=clean)
    if not found:
        why = (
            ", ".join(f"{count} {reason}" for reason, count in account.items() if count) or "nobody has voted"
        )
        raise DataError(
            f"there are no rows: {why}", where=log, fix="users must vote, and consent to be learnt from"
        )
    files.write_text(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found))
    print(f"{len(found)} rows of {len(votes)} votes in {out}")
    _account(account, state)


def _account(account: Mapping[str, int], state: State) -> None:
    for reason, count in sorted(account.items()):
        if reason != "rows" and count:
            print(f"  {reason}: {count}")
    if state.unmatched or state.capped:
        print(
            f"  not counted before: {state.unmatched} of unknown requests, {state.capped} beyond a user's cap"
        )
