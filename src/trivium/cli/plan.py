"""`trivium plan`: what a run would do here, and what it would take on a cluster. Nothing runs but a product, for a second."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from trivium import files
from trivium.cli import commands
from trivium.errors import DataError, GateError, RecipeError

if TYPE_CHECKING:
    from trivium.pipeline.run import StageStatus
    from trivium.plan.cost import Cost
    from trivium.plan.hardware import Cluster
    from trivium.plan.project import Project
    from trivium.recipe.models import Recipe

MACHINE = "machine.json"
GIB = 2**30


Asked = tuple[int | None, float | None, str | None, str | None, bool, Path | None]
"""What goes with `--on`: devices, budget, deadline, what is to be explained, plain values, where to write a page."""


def plan(
    path: Path,
    overrides: Sequence[str] | None,
    store: str,
    runs: Path,
    on: str | None,
    asked: Asked,
    calibrate: bool = False,
    learn: bool = False,
) -> None:
    gpus, budget, deadline, explain, as_json, page = asked
    if on is None:
        if asked != (None, None, None, None, False, None):
            raise RecipeError(
                "--gpus, --budget, --deadline, --explain, --json and --html are about a cluster",
                fix="name it: --on 8xH100",
            )
        here(path, overrides, store, runs, calibrate, learn)
        return
    if calibrate or learn:
        raise RecipeError(
            "--calibrate and --learn are about this machine, not a cluster", fix="leave them or --on out"
        )
    from trivium.recipe.units import parse_duration

    try:
        hours = None if deadline is None else parse_duration(deadline) / 3600
    except ValueError as error:
        raise RecipeError(str(error), where="--deadline", fix="write 12h or 3d") from None
    if (budget is not None and budget <= 0) or hours == 0:
        raise RecipeError(
            "nothing can be had for nothing", where="--budget, --deadline", fix="write more than 0"
        )
    elsewhere(path, overrides, store, runs, Elsewhere(on, gpus, budget, hours, explain, as_json, page))


def here(
    path: Path,
    overrides: Sequence[str] | None,
    store: str,
    runs: Path,
    calibrate: bool = False,
    learn: bool = False,
) -> None:
    """What a run would do on this machine; `calibrate`: after a few real steps of each training stage; `learn`: after
    keeping what the stages that have run took."""
    recipe = commands.load(path, overrides)
    from trivium.pipeline import forecast, rehearsal
    from trivium.pipeline.account import current
    from trivium.pipeline.checks import check_precision
    from trivium.pipeline.run import run, status
    from trivium.plan import machine

    places = commands.places_of(path, store, runs)
    root = places["store"].root
    statuses = status(recipe, **places)
    check_precision(recipe, [status.name for status in statuses if not status.cached])

    def tell(message: str) -> None:
        print(message, file=sys.stderr)

    rates = machine.rates(cache=root / MACHINE, tell=tell)
    made = current(places["store"], statuses)
    if calibrate:
        costs = forecast.forecast(recipe, root, made, rates)
        minutes = {cost.stage: cost.minutes for cost in costs if cost.minutes is not None}
        if first := rehearsal.wanted(recipe, minutes, made):
            tell(f"making {', '.join(first)}: rehearsals read them, and the run finds them")
            run(recipe, **places, emit=lambda _: None, only=first)
            statuses = status(recipe, **places)
            made = current(places["store"], statuses)
            costs = forecast.forecast(recipe, root, made, rates)
        compiled = {cost.stage for cost in costs if cost.compiled}
        folder = places["recipe_folder"]
        rehearsal.rehearse(recipe, compiled, rates.peak, root / forecast.SPEEDS, tell, made, folder)
    if learn:
        for lesson in forecast.learn(recipe, root, made, rates):
            tell(
                f"{lesson.stage}: {lesson.planned:.1f} minutes planned, {lesson.took:.1f} taken (x {lesson.ratio:.2g})"
            )
    costs = forecast.forecast(recipe, root, made, rates)
    console = Console(highlight=False)
    took = {name: artifact.record["seconds"] / 60 for name, artifact in made.items()}
    table = plan_table(recipe, statuses, costs, took, console.width)
    total = _total(statuses, costs, rates.peak)
    console.print(table, *_notes(costs), _memory(costs), total, *_bases(statuses, costs), sep="\n")


WIDE, WIDER = 110, 150
"""Columns of a terminal from which on the tables, here and of a cluster, show everything."""


def plan_table(
    recipe: Recipe,
    statuses: Sequence[StageStatus],
    costs: Sequence[Cost],
    took: Mapping[str, float],
    width: int = WIDE,
) -> Table:
    """Stage by stage: kind, cached or why not, parameters, tokens, minutes planned and, of what is cached, taken (`took`); where
    there is room, inputs and FLOPs too."""
    from trivium.recipe.references import references
    from trivium.recipe.units import show_count

    cost_of = {cost.stage: cost for cost in costs}
    wide = width >= WIDE
    table = Table(title=f"{recipe.name}, seed {recipe.seed}", title_justify="left")
    table.add_column("stage", overflow="fold")
    table.add_column("kind", no_wrap=True)
    if wide:
        table.add_column("from")
    table.add_column("state", overflow="fold", min_width=10)
    for heading in ("parameters", "tokens", *(["FLOPs"] if wide else []), "minutes"):
        table.add_column(heading, justify="right", no_wrap=True)
    if took:
        table.add_column("took", justify="right", no_wrap=True)
    for status in statuses:
        cost = cost_of[status.name]
        inputs = dict.fromkeys(name for _, name in references(recipe.stages[status.name]))
        why = "will go on where it stopped" if status.resumes else "; ".join(status.reasons)
        state = Text("cached", "green") if status.cached else Text(f"run: {why}", "yellow")
        counts = (cost.parameters, cost.tokens, *([cost.flops] if wide else []))
        numbers = ["" if value is None else show_count(value) for value in counts]
        band = cost.band
        minutes = "" if band is None else f"{band.expected:.1f}"
        if wide and band is not None and not status.cached:
            minutes += f" ({band.low:.1f} – {band.high:.1f})"
        made_of = [Text(", ".join(inputs))] if wide else []
        actual = [f"{took[status.name]:.1f}" if status.name in took else ""] if took else []
        table.add_row(Text(status.name), status.kind, *made_of, state, *numbers, minutes, *actual)
    return table


def _notes(costs: Sequence[Cost]) -> list[Text]:
    """What to know about the numbers, each note once: `sft, aligned: at most: rows end with their reply`."""
    stages: dict[str, list[str]] = {}
    for cost in costs:
        if cost.note:
            stages.setdefault(cost.note, []).append(cost.stage)
    return [Text(f"{', '.join(names)}: {note}", "dim") for note, names in stages.items()]


def _memory(costs: Sequence[Cost]) -> Text:
    """What each training stage takes: `memory, at most: base 8 x 2.10 GiB (data 2 x shard 4), chat 1.20 GiB`."""
    said = []
    for cost in costs:
        if cost.memory is None or cost.parallel is None:
            continue
        size = f"{cost.memory / 2**30:.2f} GiB"
        several = cost.parallel.ranks > 1
        said.append(
            f"{cost.stage} {cost.parallel.ranks} x {size} ({cost.parallel})"
            if several
            else f"{cost.stage} {size}"
        )
    return Text(
        "memory in training, at most: " + ", ".join(said) if said else "no stage trains a whole model"
    )


def _total(statuses: Sequence[StageStatus], costs: Sequence[Cost], peak: float) -> Text:
    from trivium.plan.bands import total

    due = _due(statuses)
    minutes = total(cost.band for cost in costs if cost.stage in due and cost.band is not None)
    unknown = [cost.stage for cost in costs if cost.stage in due and "unknown" in cost.note]
    said = (
        f"{len(due)} of {len(statuses)} stages to run, about {minutes.expected:.1f} minutes "
        f"({minutes.low:.0f} – {minutes.high:.0f}) of training and evaluating"
    )
    said += f" and what {', '.join(unknown)} will take" if unknown else ""
    return Text(
        f"{said} (measured matmul peak: {peak / 1e9:,.0f} GFLOP/s)" if due else "nothing to do: all is cached"
    )


def _due(statuses: Sequence[StageStatus]) -> set[str]:
    return {status.name for status in statuses if not status.cached}


def _bases(statuses: Sequence[StageStatus], costs: Sequence[Cost]) -> list[Text]:
    """Where the ends of the minutes come from."""
    from trivium.plan.doubts import doubts

    due = _due(statuses)
    used = dict.fromkeys(cost.basis for cost in costs if cost.stage in due and cost.minutes is not None)
    return [Text(str(doubts()[name]), "dim") for name in used]


def elsewhere(path: Path, overrides: Sequence[str] | None, store: str, runs: Path, asked: Elsewhere) -> None:
    """What the recipe takes on a cluster. GateError, after the tables, where a budget or a deadline is not kept."""
    recipe = commands.load(path, overrides)
    from trivium.plan import whatif
    from trivium.plan.explain import as_plain, terms
    from trivium.plan.project import project

    sizes = characters(recipe, path, store, runs)
    on = cluster_of(recipe, asked, sizes)
    found = project(recipe, on, sizes)
    console = Console(highlight=False)
    if asked.explain is not None:
        console.print("\n".join(terms(found, asked.explain)), soft_wrap=True, markup=False)
    elif asked.as_json:
        print(json.dumps(as_plain(found), indent=2))
    elif asked.page is not None:
        from trivium.report.plan import html

        files.write_text(asked.page, html(found))
        console.print(f"saved: {asked.page}", markup=False)
    else:
        console.print(
            _phases(found, console.width), *_layouts(found), *_memories(found), *_doubts(found), sep="\n"
        )
    said = whatif.check(found, recipe, asked.budget, asked.deadline, sizes)
    if said and not asked.as_json:
        console.print("\n".join(said), markup=False)


class Elsewhere(NamedTuple):
    """What `trivium plan --on` is asked."""

    on: str
    gpus: int | None
    budget: float | None  # US dollars
    deadline: float | None  # hours
    explain: str | None
    as_json: bool
    page: Path | None = None


def cluster_of(recipe: Recipe, asked: Elsewhere, sizes: Mapping[str, int]) -> Cluster:
    """The cluster of `--on`, as many devices as `--gpus` says, or as the deadline needs where nobody says."""
    from trivium.plan import whatif
    from trivium.plan.hardware import LARGEST, Cluster, cluster, names_a_count

    found = cluster(asked.on)
    if asked.gpus is not None:
        if not 0 < asked.gpus <= LARGEST:
            raise RecipeError(f"{asked.gpus} devices are no cluster", where="--gpus", fix="write 1 or more")
        return Cluster(found.accelerator, asked.gpus)
    if asked.deadline is not None and not names_a_count(asked.on):
        fitting = whatif.devices_for(recipe, found.accelerator, asked.deadline, sizes)
        if fitting is None:
            raise GateError(
                f"no number of {found.accelerator.name} ends within {asked.deadline:,.3g} hours as the recipe is",
                where="--deadline",
                fix=f"{whatif.sooner(recipe)}, or a later deadline",
            )
        return fitting.cluster
    return found


def characters(recipe: Recipe, path: Path, store: str, runs: Path) -> dict[str, int]:
    """What the training splits of the data stages that have run hold, by stage."""
    from trivium.pipeline.account import current
    from trivium.pipeline.run import status

    places = commands.places_of(path, store, runs)
    try:
        statuses = status(recipe, **places)
    except DataError:  # a plan for a cluster can be made where its data is not
        return {}
    data = current(places["store"], [one for one in statuses if one.kind == "data"])
    size = "train_characters"
    return {name: a.metrics[size] for name, a in data.items() if size in a.metrics}


def _phases(found: Project, width: int) -> Table:
    """One row a stage: time, compute, data, output, cost, energy, share of the total; on a narrow terminal without the middle,
    and with the bands below their figures where the two have no room in a line."""
    from trivium.report.plan import HEADINGS

    shown = range(len(HEADINGS)) if width >= WIDER else (0, 1, 6, 7, 8)
    beside = _columns(found, shown, " (")
    return beside if Console(width=1000).measure(beside).maximum <= width else _columns(found, shown, "\n(")


def _columns(found: Project, shown: Sequence[int], band: str) -> Table:
    from trivium.report.plan import HEADINGS, row, whole

    table = Table(title=f"{found.recipe} on {found.cluster}", title_justify="left")
    for column in shown:
        table.add_column(HEADINGS[column], justify="right" if column else "left", overflow="fold")
    rows = [row(phase, found) for phase in found.phases if phase.hours.expected]
    for cells in (*rows, ("all", *whole(found))):
        said = [Text(cells[column].replace(" (", band)) for column in shown]
        table.add_row(*said, end_section=cells in rows[-1:])
    return table


def _layouts(found: Project) -> list[Text]:
    """How each stage lies on the devices, and what is not counted."""
    lines = []
    for phase in found.phases:
        if phase.found is None:
            continue
        layout, count = phase.found.winner, phase.found.cluster.count
        held, there = layout.memory.total / GIB, found.cluster.accelerator.memory / GIB
        few = f"; on {count:,} of {found.cluster.count:,} devices" if count < found.cluster.count else ""
        lines.append(f"{phase.stage} fits: {layout}; {_small(held)} of {there:.0f} GiB on each device{few}")
    left: dict[str, list[str]] = {}
    for phase in found.phases:
        if not phase.hours.expected:
            left.setdefault(phase.note or "no arithmetic to speak of", []).append(phase.stage)
    lines += [f"not counted: {', '.join(stages)} ({why})" for why, stages in left.items()]
    return [Text(line) for line in lines]


def _small(gib: float) -> str:
    return f"{gib:.1f}" if gib >= 1 else f"{gib:.2g}"


def _memories(found: Project) -> list[Table]:
    """GiB on a device by cause, one row a training stage."""
    trained = [(phase.stage, phase.found.winner.memory.parts()) for phase in found.phases if phase.found]
    if not trained:
        return []
    causes = list(dict.fromkeys(cause for _, parts in trained for cause in parts))
    table = Table(title="GiB on each device, by cause", title_justify="left")
    table.add_column("stage")
    for cause in causes:
        table.add_column(cause, justify="right")
    for stage, parts in trained:
        table.add_row(Text(stage), *(_small(parts[c] / GIB) if c in parts else "" for c in causes))
    return [table]


def _doubts(found: Project) -> list[Text]:
    """Where the bands come from, and what the numbers leave out."""
    said = dict.fromkeys(str(doubt) for phase in found.phases for doubt in phase.doubts)
    price = found.cluster.accelerator.price
    lines = ["low – expected – high, from:", *(f"  {one}" for one in said)]
    if price is None:
        lines.append(
            "  price: none is known for this accelerator; a cluster file can give `price_usd_per_hour`"
        )
    else:
        basis = found.cluster.accelerator.price_basis
        lines.append(
            f"  price {price.low:.2f} – {price.expected:.2f} – {price.high:.2f} $ for an hour of one ({basis})"
        )
    carbon = found.carbon
    if carbon is not None and carbon.expected:
        from trivium.report.plan import amount

        lines.append(f"CO2, kg: {amount(carbon)}")
    lines.append(
        "this run alone, without trials, storage and egress (whole projects took 1.6 to 3.4 times their final run)"
    )
    notes = {phase.note for phase in found.phases if phase.note and phase.hours.expected}
    return [Text(line, "dim") for line in (*lines, *sorted(notes))]
