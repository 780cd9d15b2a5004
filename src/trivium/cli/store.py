"""`trivium store`: what fills the disk, whether it is whole, and what of it no run stands on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trivium.cli.options import STORE, StoreFolder
from trivium.errors import ArtifactError

if TYPE_CHECKING:
    from trivium.pipeline.housekeeping import Entry, Inventory

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="rich", help="What fills the disk, and what of it may go."
)

RunsFolders = Annotated[
    list[Path] | None,
    typer.Option(
        "--runs", metavar="DIR", help="A folder of runs that may point into the store. Repeat for more."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]


@app.command("ls")
def ls(store: StoreFolder = STORE, runs: RunsFolders = None, as_json: AsJson = False) -> None:
    """Every artifact: what it is, which run made it, its size, and whether a run still stands on it."""
    from rich.console import Console
    from rich.table import Table

    artifacts = [entry for entry in _inventory(store, runs).entries() if entry.part == "artifacts"]
    if as_json:
        _print(artifacts)
        return
    table = Table("artifact", "kind", "size", "made as", "in use by", box=None, pad_edge=False)
    for entry in sorted(artifacts, key=lambda entry: str((entry.record or {}).get("created", ""))):
        record = entry.record or {"kind": "damaged", "recipe": "?", "stage": "?", "created": ""}
        used = ", ".join(entry.links) or ("what stands on it" if entry.reachable else "nothing")
        table.add_row(
            entry.path.name[:12],
            record["kind"],
            _bytes(entry.bytes),
            f"{record['recipe']}/{record['stage']}",
            used,
        )
    Console().print(table)


@app.command()
def du(store: StoreFolder = STORE, runs: RunsFolders = None, as_json: AsJson = False) -> None:
    """The bytes of each part of the store, and how many of them no run stands on."""
    from rich.console import Console
    from rich.table import Table

    from trivium.pipeline.housekeeping import PARTS

    entries = list(_inventory(store, runs).entries())
    if as_json:
        _print(entries)
        return
    table = Table("part", "folders", "size", "in use", "not in use", box=None, pad_edge=False)
    for part, what in PARTS.items():
        here = [entry for entry in entries if entry.part == part]
        used = sum(entry.bytes for entry in here if entry.reachable)
        size = sum(entry.bytes for entry in here)
        table.add_row(what, str(len(here)), _bytes(size), _bytes(used), _bytes(size - used))
    Console().print(table)


@app.command()
def verify(
    store: StoreFolder = STORE,
    drop: Annotated[
        bool,
        typer.Option(
            "--drop", help="Take away what is damaged: the next run puts it back, or makes it anew."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Read every file of every artifact, token shard and index and compare its SHA-256. Exit code 4 if one is damaged."""
    from trivium.pipeline.housekeeping import verify as check

    damaged = []
    count: Counter[str] = Counter()
    inventory = _inventory(store, [])
    for part, path, wrong in check(inventory):
        count[part] += 1
        if wrong:
            damaged.append(path.name)
            if drop:
                inventory.drop(part, path.name)
        if as_json:
            print(json.dumps({"part": part, "artifact": path.name, "whole": not wrong, "what": wrong}))
        elif wrong:
            print(f"damaged: {wrong}")
    names = {"artifacts": "artifacts", "tokens": "folders of token shards", "index": "indexes"}
    every = ", ".join(f"{number} {names[part]}" for part, number in count.items())
    if not as_json:
        print(f"{count.total() - len(damaged)} of {count.total()} are whole ({every})")
    if damaged:
        raise ArtifactError(
            f"{len(damaged)} of {count.total()} are damaged ({every})",
            where=", ".join(damaged),
            fix="they are taken away: the next run puts them back, or makes them anew"
            if drop
            else "trivium store verify --drop takes them away: the next run puts them back, or makes them anew",
        )


@app.command()
def gc(
    store: StoreFolder = STORE,
    runs: RunsFolders = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Delete it. Without this, it is only listed.")
    ] = False,
    stopped: Annotated[
        bool, typer.Option("--stopped", help="Also the work that stopped stages would go on from.")
    ] = False,
    cache: Annotated[
        bool, typer.Option("--cache", help="Also token shards and optimizer states that runs still use.")
    ] = False,
) -> None:
    """List what no run stands on and what it would free; with --apply, delete it.

    In use is what a link in a run's folder points at and all that it was made from. Nothing is deleted while a stage runs.

    Examples:

      trivium store gc              what would go

      trivium store gc --apply      it goes
    """
    from trivium.pipeline.housekeeping import collect, collectable

    inventory = _inventory(store, runs)
    if not inventory.links:
        raise ArtifactError(
            f"no run's folder points into {store}, so everything in it would go",
            where=", ".join(map(str, inventory.runs)),
            fix="name the folder of runs with --runs; or delete the store's folder, if that is what you want",
        )
    entries = collectable(inventory, stopped=stopped, cache=cache)
    for entry in entries:
        record = entry.record or {}
        name = f"{record['recipe']}/{record['stage']}" if record else ""
        print(f"{entry.part}  {entry.path.name[:12]}  {name:<24}  {_bytes(entry.bytes)}")
    total = sum(entry.bytes for entry in entries)
    if not apply:
        print(f"{len(entries)} folders, {_bytes(total)}, would go; --apply deletes them")
        return
    freed = collect(inventory, entries)
    print(f"{sum(not entry.path.exists() for entry in entries)} folders deleted, {_bytes(freed)} freed")


@app.command()
def get(
    artifact: Annotated[
        str,
        typer.Argument(
            metavar="ARTIFACT",
            help="(The start of) a fingerprint, or RECIPE/STAGE as the newest run of any machine left it.",
            show_default=False,
        ),
    ],
    store: StoreFolder = STORE,
) -> None:
    """Bring an artifact here, whole and checked, and print its folder; signatures and withdrawals come along.

    Example:

      trivium serve "$(trivium store get quickstart/release --store s3://models/team)"
    """
    from trivium.pipeline.store import opened
    from trivium.pipeline.withdraw import STANDING

    known = opened(store)
    known.lines(STANDING)  # for `serve`, which asks no remote
    print(known.share(known.open(known.find(artifact))).path)


def _inventory(store: str, runs: Sequence[Path] | None) -> Inventory:
    from trivium.pipeline.shared import inventory
    from trivium.pipeline.store import opened

    return inventory(opened(store), [Path("runs")] if runs is None else runs)


def _print(entries: Sequence[Entry]) -> None:
    for entry in entries:
        print(json.dumps(entry.as_dict()))


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
