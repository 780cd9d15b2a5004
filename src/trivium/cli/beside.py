"""`trivium plan --beside`: what if? A plan, the same with something changed, and why they differ."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from trivium.cli import commands, plan
from trivium.errors import RecipeError

if TYPE_CHECKING:
    from trivium.plan.bands import Band
    from trivium.plan.beside import Pair
    from trivium.plan.hardware import Cluster
    from trivium.plan.project import Project

MOST = 12
"""Changed fields that are listed."""


def beside(
    path: Path,
    overrides: Sequence[str],
    store: str,
    runs: Path,
    on: str | None,
    gpus: int | None,
    other: Sequence[str],
    as_json: bool,
) -> None:
    """`other`: fields (`base.batch=64`), a cluster (`64xH200`, a cluster file) or another recipe, all of one second plan. `on` is
    None where there is no first cluster, or something is asked that only one plan can tell.
    """
    if on is None:
        raise RecipeError(
            "--beside goes with --on, --gpus and --json only", fix="name the first cluster: --on 8xH100"
        )
    recipe = commands.load(path, overrides)
    fields, elsewhere, second = _sorted(other)
    recipes = (recipe, commands.load(second or path, [*([] if second else overrides), *fields]))
    from trivium.plan.beside import changed, pairs, told
    from trivium.plan.explain import as_plain
    from trivium.plan.project import project

    characters = [
        plan.characters(one, place, store, runs)
        for one, place in zip(recipes, (path, second or path), strict=True)
    ]
    asked = plan.Elsewhere(on, gpus, None, None, None, as_json)
    cluster = plan.cluster_of(recipe, asked, characters[0])
    first = project(recipe, cluster, characters[0])
    try:
        then = project(recipes[1], elsewhere or cluster, characters[1])
    except RecipeError as error:
        raise RecipeError(f"beside it, {error.what}", where=error.where, fix=error.fix) from None
    found = pairs(first, then)
    why = [told(pair, first, then) for pair in found]
    if as_json:
        plain = {"plan": as_plain(first), "beside": as_plain(then)}
        print(json.dumps({**plain, "changed": changed(*recipes), "why": why}, indent=2))
        return
    console = Console(highlight=False)
    said = changed(*recipes)
    more = [f"and {len(said) - MOST:,} more fields"] if len(said) > MOST else []
    console.print(_table(first, then, found, console.width))
    console.print(*(Text(line) for line in (*said[:MOST], *more, *why)), sep="\n")
    console.print(
        Text(
            "the same code runs on both sides, so most of a band's doubt is shared: compare expected with expected",
            "dim",
        )
    )


def _sorted(other: Sequence[str]) -> tuple[list[str], Cluster | None, Path | None]:
    """Fields, the cluster and the recipe among what `--beside` was given."""
    from trivium.plan.hardware import cluster, names_a_count

    fields: list[str] = []
    on: Cluster | None = None
    recipe: Path | None = None
    for text in other:
        file = text.endswith((".yaml", ".yml"))
        if "=" in text:
            fields.append(text)
        elif recipe is None and file and _is_recipe(Path(text)):
            recipe = Path(text)
        elif on is None and (file or names_a_count(text)):
            on = cluster(text)
        else:
            raise RecipeError(
                f"`{text}` is nothing to plan beside",
                where=f"--beside {text}",
                fix="write a field (base.batch=64), one cluster with its number (64xH200, a cluster file), or one other recipe",
            )
    return fields, on, recipe


def _is_recipe(path: Path) -> bool:
    """A cluster file names an accelerator, a recipe has stages; what cannot be read is told by who reads it."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return True
    return not any(line.startswith("accelerator:") for line in text.splitlines())


def _table(first: Project, then: Project, found: Sequence[Pair], width: int) -> Table:
    """One row a stage: time and dollars of both and their ratio; with their bands where there is room."""
    from trivium.report.plan import amount, span

    wide = width >= plan.WIDER
    title = f"{first.recipe} on {first.cluster}, beside it {then.recipe} on {then.cluster}"
    table = Table(title=title, title_justify="left")
    table.add_column("stage", overflow="fold")
    for heading in ("time", "beside", "x", "US dollars", "beside", "x", "GiB", "beside"):
        table.add_column(heading, justify="right", overflow="fold")

    def short(text: str) -> str:
        return text if wide else text.partition(" (")[0]

    def time(band: Band | None) -> str:
        return short(span(band)) if band and band.expected else ""

    def money(band: Band | None) -> str:
        return short(amount(band)) if band else ""

    def over(ratio: float | None) -> str:
        return "" if ratio is None else f"{ratio:.2f}"

    for pair in found:
        both = (pair.first, pair.other)
        held = [
            f"{one.found.winner.memory.total / plan.GIB:,.3g}" if one and one.found else "" for one in both
        ]
        times = [time(one.hours if one else None) for one in both]
        sums = [money(one.dollars if one else None) for one in both]
        cells = (pair.stage, *times, over(pair.ratio), *sums, over(pair.dollars), *held)
        table.add_row(*map(Text, cells))
    table.add_section()
    whole = then.hours.expected / first.hours.expected if first.hours.expected else None
    bills = (first.dollars, then.dollars)
    ratio = bills[1].expected / bills[0].expected if bills[0] and bills[1] and bills[0].expected else None
    cells = ("all", time(first.hours), time(then.hours), over(whole), *map(money, bills), over(ratio), "", "")
    table.add_row(*map(Text, cells))
    return table
