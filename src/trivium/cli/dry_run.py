"""`trivium plan --dry-run`: a step of each training stage on one of ranks that are not there, counted beside the plan."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from trivium.cli import commands
from trivium.errors import GateError, RecipeError

if TYPE_CHECKING:
    from trivium.pipeline.dry_run import DryRun
    from trivium.plan.hardware import Accelerator
    from trivium.recipe.look import Look
    from trivium.recipe.training import TrainingStage

GIB = 2**30
USUAL = "H100"
"""Whose memory decides what `parallel: auto` means, where `--on` names no other."""


def dry_run(
    path: Path, overrides: Sequence[str] | None, on: str | None, ranks: int | None, as_json: bool = False
) -> None:
    """Tables of what was counted. GateError after them where a stage does not fit the devices of `--on`."""
    recipe = commands.load(path, overrides)
    from trivium.pipeline import dry_run as counting
    from trivium.plan.hardware import LARGEST, cluster, names_a_count
    from trivium.recipe.lines import Lines
    from trivium.recipe.look import Look

    if ranks is None and on is not None and names_a_count(on):
        ranks = cluster(on).count
    if ranks is not None and not 0 < ranks <= LARGEST:
        raise RecipeError(f"{ranks} ranks are no cluster", where="--ranks", fix="write 1 or more")
    device = cluster(on or USUAL).accelerator
    look = Look(recipe, Lines())
    stages: dict[str, TrainingStage] = {}
    left: dict[str, list[str]] = {}
    for name in recipe.stages:
        if (why := counting.possible(look, name)) is not None:
            left.setdefault(why, []).append(name)
        else:
            stages[name] = _laid_out(look, name, ranks, device)
    counted = counting.dry_runs(look, stages)
    if as_json:
        print(json.dumps([_plain(one) for one in counted], indent=2))
    else:
        console = Console(highlight=False)
        for one in counted:
            console.print(_table(one), *([Text(one.blocks, "dim")] if one.blocks else []), sep="\n")
        console.print(
            *(Text(f"not run: {', '.join(names)} ({why})", "dim") for why, names in left.items()), sep="\n"
        )
    if on is not None:
        _fits(counted, device)


def _laid_out(look: Look, name: str, ranks: int | None, device: Accelerator) -> TrainingStage:
    """The stage in the recipe's own layout where it names one, else in that of `parallel: auto` on `ranks` devices."""
    from trivium.plan.cost import model_of
    from trivium.plan.hardware import Cluster
    from trivium.plan.layout import as_found, lay_out
    from trivium.recipe.parallel import AUTO
    from trivium.recipe.training import TrainingStage

    stage = look.recipe.stages[name]
    assert isinstance(stage, TrainingStage)
    if stage.parallel != AUTO and (ranks is None or stage.parallel.ranks > 1):
        if ranks is not None and stage.parallel.ranks > ranks:
            raise RecipeError(
                f"the layout {stage.parallel} has {stage.parallel.ranks:,} ranks, and there are {ranks:,}",
                where=name,
                fix="write `parallel: auto`, or a layout of as many ranks",
            )
        return stage  # whether it fits is what is counted
    config, context = model_of(look, name), look.context(stage)
    assert config is not None and context is not None
    found = lay_out(look, stage, config, context, Cluster(device, ranks or 1))
    return as_found(stage, found)


def _table(one: DryRun) -> Table:
    title = (
        f"{one.stage}: {one.parameters:,} parameters on each of {one.parallel.ranks:,} ranks "
        f"({one.parallel or 'one rank'}), {one.passes:,} micro-batches of {one.micro} in a step"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("a rank")
    for heading in ("planned, GiB", "counted", "off", "collectives"):
        table.add_column(heading, justify="right")
    for line in one.held:
        table.add_row(
            line.what, f"{line.planned / GIB:,.3f}", f"{line.counted / GIB:,.3f}", _off(line.off), ""
        )
    if one.sent:
        table.add_section()
    for line in one.sent:
        table.add_row(
            line.what,
            f"{line.planned / GIB:,.3f}",
            f"{line.counted / GIB:,.3f}",
            _off(line.off),
            f"{line.count or 0:,.0f}",
        )
    return table


def _off(off: float) -> str:
    return f"{off:+.1%}" if abs(off) < 10 else "not counted" if off > 0 else "not planned"


def _plain(one: DryRun) -> dict[str, Any]:
    return {
        **{key: getattr(one, key) for key in ("stage", "micro", "passes", "parameters", "blocks")},
        "layout": one.parallel.model_dump(),
        "memory_bytes": {line.what: {"planned": line.planned, "counted": line.counted} for line in one.held},
        "sent_bytes": {
            line.what: {"planned": line.planned, "counted": line.counted, "collectives": line.count}
            for line in one.sent
        },
    }


def _fits(counted: Sequence[DryRun], device: Accelerator) -> None:
    for one in counted:
        if one.peak.counted > device.memory:
            raise GateError(
                f"{one.stage} does not fit: a rank holds {one.peak.counted / GIB:,.1f} GiB at its peak, and {device.name} has "
                f"{device.memory / GIB:,.1f}",
                fix="write `micro_batch: 1`, `recompute: blocks`, or a layout with more `shard`, `tensor` or `context` ranks",
            )
