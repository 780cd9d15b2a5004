"""The folder that a launcher and its ranks share: what is to be done, what happened, and how it ended.

`job.json` says what to train, `events.jsonl` is the first rank's, `metrics.json` is there once the stage is done; `stopped.json`
and `error-RANK.json` say why it is not.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trivium.files import append_line
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
