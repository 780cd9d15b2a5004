"""`trivium arena`: people compare replies, blind; what they say, and what is made of it. Nothing heavy is imported."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trivium.cli.options import OrRecipe
from trivium.errors import DataError, RecipeError, TriviumError

if TYPE_CHECKING:
    from trivium.evaluate.people.votes import Votes

app = typer.Typer(cls=OrRecipe, no_args_is_help=True, rich_markup_mode="rich")
Where = Annotated[
    str,
    typer.Option(
        "--votes", metavar="FILE", help="Where votes are kept: a file, or postgresql+psycopg://host/name."
    ),
]
Given = Annotated[str, typer.Argument(metavar="VOTES", help="A file of votes, or the address of a database.")]
VOTES = "votes.sqlite"


@app.callback()
def options() -> None:
    """People compare the replies of an evaluation, side by side and blind.

    `trivium arena DIR` is short for `trivium arena run DIR`.
    """


@app.command()
def run(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="DIR...", help="Folders or links of evaluate stages.", show_default=False),
    ],
    votes: Where = VOTES,
    rater: Annotated[
        list[str] | None, typer.Option("--rater", metavar="NAME", help="Who votes. Repeat for more.")
    ] = None,
    rate: Annotated[bool, typer.Option("--rate", help="Show single replies to rate instead.")] = False,
    overlap: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the pairs that every rater gets.")
    ] = 1.0,
    name: Annotated[
        list[str] | None,
        typer.Option("--name", metavar="NAME", help="What a reply may call itself: its vote is not blind."),
    ] = None,
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8700,
) -> None:
    """Show pairs of replies in a browser; keys 1 to 4 vote. Each rater has a link of their own.

    Example:

      trivium arena runs/quickstart/safety --rater ann --rater bob
    """
    try:
        from trivium.evaluate.people.server import opened, serve
        from trivium.serve.process import loopback, own_names
    except ModuleNotFoundError as error:
        raise TriviumError(f"the arena needs {error.name}", fix="pip install 'trivium[arena]'") from None
    hosts = own_names(host) if loopback(host) else None
    about: dict[str, Any] = {"rate": rate, "overlap": overlap, "names": name or [], "hosts": hosts}
    arena, account = opened(folders, _opened(votes, made=True), rater or ["me"], **about)
    for reason, count in sorted(account.items()):
        print(f"left out: {count} ({reason})")
    print(f"{len(arena.by_id)} {'replies' if rate else 'pairs'}; votes go to {votes}")
    serve(arena, host, port)


@app.command()
def scores(
    votes: Given = VOTES,
    length: Annotated[bool, typer.Option("--length", help="At equal length of the replies.")] = False,
) -> None:
    """How strong each model is by the votes, with intervals, and how far the raters agree.

    Example:

      trivium arena scores votes.sqlite --length
    """
    from rich.console import Console
    from rich.table import Table

    there = _opened(votes)
    from trivium.evaluate.people.agreement import agreement
    from trivium.evaluate.people.strengths import standings
    from trivium.evaluate.people.votes import SINGLE, standing

    with closing(there):
        counted, tasks = standing(there.log()), there.tasks()
    console = Console(highlight=False)
    found = standings(counted, tasks, length=length)
    if found.strengths:
        title = f"{found.raters} raters, {found.tasks} pairs (points as Elo's; 95% intervals)"
        table = Table("model", "points", "interval", "votes", title=title, title_justify="left", box=None)
        for one in found.strengths:
            table.add_row(
                one.model, f"{one.points:+.0f}", f"[{one.low:+.0f}, {one.high:+.0f}]", str(one.votes)
            )
        console.print(table, markup=False)
        console.print(f"ties: v = {found.ties:.2f}; of votes for one side, left: {found.left_share:.2f}")
        if found.length is not None:
            console.print(f"length: {found.length:+.2f} (above 0: longer replies are preferred)")
        if found.raters < 2:
            console.print("one rater: the intervals say nothing of other raters")
    single = [vote for vote in counted if vote.choice in SINGLE and vote.blind]
    for model in sorted({vote.left for vote in single}):
        own = [vote for vote in single if vote.left == model]
        good = sum(vote.choice == "good" for vote in own)
        console.print(f"{model}: {good} of {len(own)} replies good", markup=False)
    if not found.strengths and not single:
        raise DataError("there are no votes that count yet", where=votes)
    agreed = agreement(counted)
    console.print(f"agreement of raters: {'?' if agreed is None else f'{agreed:.2f}'} (Krippendorff's alpha)")
    if found.non_blind:
        console.print(f"left out: {found.non_blind} votes on replies that say which model they are from")


@app.command()
def export(
    votes: Given = VOTES,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="Where it is written; KIND.jsonl, rows.parquet.",
            show_default=False,
        ),
    ] = None,
    kind: Annotated[
        str,
        typer.Option(
            help="`preferences` for dpo, `feedback` for kto, `votes` to import again, `rows` of the judge people."
        ),
    ] = "preferences",
) -> None:
    """Make data of votes that a data stage reads: `{kind: jsonl, path: FILE}`.

    Only votes whose rater agreed to it become training data.

    Example:

      trivium arena export votes.sqlite --kind feedback -o thumbs.jsonl
    """
    file = out or Path("rows.parquet" if kind == "rows" else f"{kind}.jsonl")
    from trivium import files

    there = _opened(votes)
    from trivium.evaluate import rows
    from trivium.evaluate.people.export import KINDS, lines, people_rows
    from trivium.evaluate.people.votes import standing

    with closing(there):
        counted, tasks = standing(there.log()), there.tasks()
    if kind == "rows":
        made = people_rows(counted, tasks)
        rows.write(file, made)
        print(f"{len(made)} rows in {file}")
        return
    if kind not in KINDS:
        raise RecipeError(f"there is no export of {kind!r}", fix=f"--kind {', '.join(KINDS)} or rows")
    written, account = lines(kind, counted, tasks)
    if not written:
        why = ", ".join(f"{count} {reason}" for reason, count in account.items()) or "nobody has voted"
        raise DataError(
            f"there are no rows: {why}", where=votes, fix="raters must vote, and consent to be learnt from"
        )
    files.write_text(file, "".join(f"{line}\n" for line in written))
    print(f"{len(written)} lines of {len(counted)} votes in {file}")
    for reason, count in sorted(account.items()):
        print(f"  {reason}: {count}")


@app.command("import")
def take(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `export --kind votes` wrote.")],
    votes: Where = VOTES,
) -> None:
    """Add exported votes to others; those that are there already are left alone.

    Example:

      trivium arena import ours.jsonl --votes all.sqlite
    """
    from trivium.evaluate.people.export import read_votes

    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise DataError(f"the votes cannot be read: {error}", where=str(file)) from None
    tasks, given = read_votes(text, str(file))
    with closing(_opened(votes, made=True)) as there:
        there.keep(tasks)
        new = sum(there.add(vote) for vote in given)
    print(f"{new} votes added, {len(given) - new} were there already")


def _opened(where: str, *, made: bool = False) -> Votes:
    try:
        from trivium.evaluate.people.votes import Votes
    except ModuleNotFoundError as error:
        raise TriviumError(f"votes need {error.name}", fix="pip install 'trivium[arena]'") from None
    if not made and "://" not in where and not Path(where).is_file():
        raise DataError("there are no votes", where=where, fix="trivium arena DIR collects them")
    return Votes(where)
