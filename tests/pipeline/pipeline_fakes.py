"""Small stages that write a file each, and a run of one in a process of its own."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from forked import Forked

from trivium.pipeline.contract import Artifact, Context
from trivium.pipeline.remote import Remote
from trivium.pipeline.run import run
from trivium.pipeline.store import Store
from trivium.recipe.models import Recipe

TERM = 60.0
"""Seconds of a lease."""
KINDS = ("data", "tokenizer", "pretrain", "sft", "dpo", "evaluate", "quantize", "release")


def default(ctx: Context) -> dict[str, Any]:
    """Writes what it was given, so that a file's content shows what a stage saw."""
    if ctx.config.kind == "data":
        for split in ("train", "heldout"):
            (ctx.out / f"{split}.jsonl").write_text(json.dumps({"key": f"{ctx.config.size}-{split}"}) + "\n")
        source = {
            "kind": "jsonl",
            "license": "CC0",
            "origin": "here",
            "planned_share": 1,
            "realised_share": 1,
        }
        (ctx.out / "account.json").write_text(json.dumps({"sources": [source]}))
    (ctx.out / "made").mkdir()
    (ctx.out / "made" / "of.json").write_text(json.dumps({n: a.fingerprint for n, a in ctx.inputs.items()}))
    return {"size": 3, "loss": 0.25}


class Fake:
    """A stage kind that counts its runs."""

    def __init__(self, work: Callable[[Context], dict[str, Any]] = default, version: int = 1) -> None:
        self.work, self.version, self.extra = work, version, {"python": "3.x"}
        self.runs: list[str] = []

    def identity(self, config: Any, recipe_folder: Path) -> dict[str, Any]:
        return dict(self.extra)

    def run(self, ctx: Context) -> dict[str, Any]:
        self.runs.append(ctx.name)
        return self.work(ctx)


def stages() -> dict[str, dict[str, Any]]:
    """A whole recipe's stages, as YAML would give them."""
    return {
        "corpus": {"kind": "data", "sources": [{"kind": "python-docs"}], "size": 100},
        "vocab": {"kind": "tokenizer", "data": "corpus"},
        "base": {"kind": "pretrain", "data": "corpus", "tokenizer": "vocab", "steps": 5},
        "chats": {"kind": "data", "format": "conversations", "sources": [{"kind": "refusals"}], "size": 200},
        "chat": {"kind": "sft", "init": "base", "data": "chats", "steps": 5},
        "aligned": {"kind": "dpo", "init": "chat", "data": "chats", "steps": 5, "beta": 0.1},
        "safety": {
            "kind": "evaluate",
            "model": "aligned",
            "baseline": "chat",
            "suites": [{"kind": "bits_per_byte", "data": "corpus"}],
        },
        "small": {"kind": "quantize", "model": "chat"},
    }


def recipe(values: dict[str, dict[str, Any]] | None = None, **top: Any) -> Recipe:
    return Recipe.model_validate({"name": "demo", "seed": 7, "stages": values or stages(), **top})


class Bench:
    """A store, a registry of fakes and the events of what was run."""

    def __init__(self, root: Path, url: str = "", term: float = TERM) -> None:
        """With a `url`, a machine with a cache of its own in front of a store that others share."""
        root.mkdir(parents=True, exist_ok=True)
        self.root, self.store = root, Store(root / "store", Remote(url, term) if url else None)
        self.kinds = {kind: Fake() for kind in KINDS}
        self.events: list[dict[str, Any]] = []

    @property
    def places(self) -> dict[str, Any]:
        where = {"recipe_folder": self.root, "runs_folder": self.root / "runs"}
        return {"store": self.store, "registry": self.kinds, **where}

    def run(self, values: Any = None, only: list[str] | None = None, **top: Any) -> dict[str, Artifact]:
        self.events.clear()
        return run(recipe(values, **top), **self.places, emit=self.events.append, only=only)

    def started(self) -> dict[str, list[str]]:
        """Stage -> reasons, of what ran in the last run."""
        return {e["stage"]: e["reasons"] for e in self.events if e["event"] == "stage_start"}


def slow(ctx: Context) -> dict[str, Any]:
    """Counts its tries in its scratch and in a shared file; half-way through it writes a file and waits."""
    folder = ctx.recipe_folder
    with (folder / "tries").open("a") as file:
        file.write("x")
    found = [path.name for path in ctx.work.iterdir()]
    (ctx.work / "checkpoint").write_text("step 3")
    (ctx.out / "first.txt").write_text("half")
    (folder / "half-way").touch()
    while not (folder / "go").exists():
        time.sleep(0.01)
    (ctx.out / "second.txt").write_text("whole")
    return {"found": found}


def many(ctx: Context) -> dict[str, Any]:
    """Many small files, so that a push takes a while, then waits if it is told to."""
    for number in range(FILES):
        (ctx.out / f"{number}.txt").write_text(f"file {number}\n" * 100)
    while (ctx.recipe_folder / "wait").exists():
        time.sleep(0.01)
    return {}


FILES = 60


def start(root: Path, *place: str | float) -> Forked:
    """A run of one stage in a process of its own: of a slow one, or with a URL (and a lease's term) of many files."""
    code = "import sys, pipeline_fakes; pipeline_fakes.alone(*sys.argv[1:])"
    return Forked(code, root, *place, path=[Path(__file__).parent])


def alone(root: str, *place: str) -> None:
    bench = Bench(Path(root), *place[:1], *map(float, place[1:]))
    bench.kinds["data"] = Fake(many if place else slow)
    made = bench.run({"corpus": stages()["corpus"]})
    print(
        json.dumps({"events": [event["event"] for event in bench.events], "metrics": made["corpus"].metrics})
    )
