"""`trivium data`: the data stages of a recipe, and the tools around data. Nothing heavy is imported."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from trivium import files
from trivium.cli import commands
from trivium.cli.options import RUNS, STORE, OrRecipe, Override, Recipe, RunsFolder, Stages, StoreFolder

app = typer.Typer(cls=OrRecipe, no_args_is_help=True, rich_markup_mode="rich")
quality_app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")
app.add_typer(quality_app, name="quality", help="The model that scores the quality of documents.")


@app.callback()
def options() -> None:
    """Run the data stages of a recipe, and the tools around data.

    `trivium data RECIPE [STAGE]...` is short for `trivium data run RECIPE [STAGE]...`.
    """


@quality_app.command("train")
def quality_train(
    good: Annotated[
        Path, typer.Argument(metavar="GOOD", help="Good examples: a file or folder.", show_default=False)
    ],
    crawl: Annotated[
        Path,
        typer.Argument(metavar="CRAWL", help="The crawl at large: a file or folder.", show_default=False),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where the model is written.")],
    buckets: Annotated[int, typer.Option(min=1024, help="Weights that n-grams are hashed to.")] = 2**20,
    documents: Annotated[int, typer.Option(min=100, help="Most documents taken from each side.")] = 200_000,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same model.")] = 0,
) -> None:
    """Train the quality model of `quality: {model: FOLDER}`: what good examples have that the crawl has not.

    Files are .jsonl or .parquet with a `text`, .txt or .md. Accuracy and AUC are measured on documents held out.

    Example:

      trivium data quality train good.jsonl crawl/ --out quality
    """
    from trivium.corpus.steps.quality_train import train

    made = train(good, crawl, out, buckets=buckets, seed=seed, most=documents)
    table = Table(
        title=f"{out}: accuracy {made['accuracy']:.1%}, AUC {made['auc']:.3f} on {made['heldout']} held out"
    )
    for column in ("share of documents below", "good", "crawl"):
        table.add_column(column, justify="right")
    for share, good_score in made["quantiles"]["good"].items():
        table.add_row(f"{float(share):.0%}", f"{good_score:.3f}", f"{made['quantiles']['crawl'][share]:.3f}")
    Console(highlight=False).print(table)


@app.command("inspect")
def inspect(
    artifact: Annotated[
        Path,
        typer.Argument(metavar="ARTIFACT", help="A data artifact's folder or link.", show_default=False),
    ],
    page: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write the account as one HTML file, too.")
    ] = None,
) -> None:
    """Show where every document went: in and out of each step, what was dropped and why, duplicates, dead letters.

    Example:

      trivium data inspect runs/quickstart/corpus --html corpus.html
    """
    from trivium.report import data

    account = data.load(artifact)
    data.show(account)
    if page is not None:
        files.write_text(page, data.html(account))
        print(f"saved: {page}")


@app.command("run")
def run(
    recipe: Recipe,
    stages: Stages = None,
    override: Override = None,
    store: StoreFolder = STORE,
    runs: RunsFolder = RUNS,
) -> None:
    """Run the data stages of a recipe (data, tokenizer), and what they need.

    Example:

      trivium data mine.yaml corpus && trivium data inspect runs/mine/corpus
    """
    commands.step(recipe, override, store, runs, stages, ("data", "tokenizer"))
