"""The folder that a launcher and its ranks share: what is to be done, what happened, and how it ended.

`job.json` says what to train, `events.jsonl` is the first rank's, `rank-RANK.json` holds a rank's process. `metrics.json` is
there once the stage is done; `stopped.json` and `error-RANK.json` say why it is not. What starting again can mend (a rank that
was killed or lost its peers) leaves none of these.
"""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

from trivium import errors
from trivium.errors import Interrupted, Preempted, TriviumError
from trivium.files import append_line, read_json, write_json
from trivium.pipeline.contract import Artifact, Context
from trivium.recipe.models import Recipe
from trivium.types import Event

REQUEUE = 75
"""Exit code of a rank that was asked to stop and kept a checkpoint: run it again (EX_TEMPFAIL of sysexits.h)."""


def describe(ctx: Context, parallel: dict[str, int]) -> dict[str, Any]:
    """The job as plain JSON values."""
    return {
        "recipe": ctx.recipe.model_dump(mode="json"),
        "stage": ctx.name,
        "inputs": {name: str(artifact.path) for name, artifact in ctx.inputs.items()},
        "out": str(ctx.out),
        "work": str(ctx.work),
        "seed": ctx.seed,
        "recipe_folder": str(ctx.recipe_folder),
        "parallel": parallel,
    }


def context(job: dict[str, Any], events: Path, rank: int) -> Context:
    """The Context of a job. The first rank's events go to a file that the launcher reads; the others' go nowhere."""
    recipe = Recipe.model_validate(job["recipe"])
    paths = {name: Path(path) for name, path in job["inputs"].items()}

    def emit(event: Event, /) -> None:
        if rank == 0:
            with contextlib.suppress(OSError):  # no room for a line is no reason to stop
                append_line(events, json.dumps(event, ensure_ascii=False))

    return Context(
        name=job["stage"],
        config=recipe.stages[job["stage"]],
        recipe=recipe,
        inputs={
            name: Artifact(path, json.loads((path / "artifact.json").read_text(encoding="utf-8")))
            for name, path in paths.items()
        },
        out=Path(job["out"]),
        work=Path(job["work"]),
        seed=job["seed"],
        emit=emit,
        recipe_folder=Path(job["recipe_folder"]),
    )


def clear(folder: Path) -> None:
    """Removes what an earlier run of the job left."""
    for old in [*folder.glob("*.json*"), *folder.glob("output.log")]:
        old.unlink()


def tell_error(folder: Path, rank: int, error: TriviumError) -> None:
    """Leaves what went wrong for the launcher: it would go wrong again, so nobody starts again."""
    about = {"kind": type(error).__name__, "what": error.what, "where": error.where, "fix": error.fix}
    write_json(folder / f"error-{rank}.json", about | {"time": time.time()})


def tell_stopped(folder: Path, error: Interrupted) -> None:
    write_json(folder / "stopped.json", {"kind": type(error).__name__, "what": error.what, "fix": error.fix})


def failed(folder: Path) -> bool:
    """Whether a rank has said what went wrong."""
    return any(folder.glob("error-*.json"))


def result(folder: Path, by_user: bool = False) -> dict[str, Any] | None:
    """The metrics of a stage that is done; None if no rank said how it ended.

    A stage that is done is done, whatever was said before. Otherwise raises the error that came first (those after it are
    mostly its consequences), Interrupted or Preempted. `by_user`: a stop was Ctrl-C's, which reaches the ranks as a SIGTERM.
    """
    if (done := folder / "metrics.json").exists():
        metrics: dict[str, Any] = read_json(done)
        return metrics
    told = [read_json(path) for path in folder.glob("error-*.json")]
    if told:
        first = min(told, key=lambda about: about["time"])
        kind = KINDS.get(first["kind"], TriviumError)
        raise kind(first["what"], where=first["where"], fix=first["fix"])
    if (stopped := folder / "stopped.json").exists():
        about = read_json(stopped)
        preempted = about["kind"] == Preempted.__name__ and not by_user
        raise (Preempted if preempted else Interrupted)(about["what"], fix=about["fix"])
    return None


KINDS: dict[str, type[TriviumError]] = {
    "RecipeError": errors.RecipeError,
    "DataError": errors.DataError,
    "ArtifactError": errors.ArtifactError,
    "TrainingError": errors.TrainingError,
}
