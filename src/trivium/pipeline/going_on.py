"""Training a finished stage on: `-o stage.steps=90` after 60 begins at step 60, with its optimizer and its place in the data.

What the last step left (weights, optimizer, place, random state) stays in the store beside the artifact. A stage that differs
from the last one made under its name in nothing but a larger `steps` or `tokens` starts from there. Learning rates are those of
the longer run from then on, as in transformers' Trainer. That equals never having stopped only where those of the steps before
do not depend on the length: `schedule: constant` with as many steps of warm-up. Otherwise a warning says so, and the artifact's
metrics always name what it went on from (`went_on`).
"""

from __future__ import annotations

from pathlib import Path
from shutil import copytree
from typing import Any

from trivium.files import atomic_folder, read_json, write_json
from trivium.pipeline.contract import Artifact
from trivium.pipeline.fingerprint import Identity
from trivium.recipe.training import TrainingStage
from trivium.types import Emit

LAST = "last_state"
"""Where in its work a training stage leaves its last state, and in the store the states of all (safe to delete)."""
NOTE = "went_on.json"
LENGTHS = ("steps", "tokens")


def prepare(
    before: Artifact | None, identity: Identity, config: Any, kept: Path, work: Path, emit: Emit
) -> None:
    """Lays the last state of `before`, found under `kept`, into the empty `work` of a stage that goes on from it, if it does."""
    if (
        before is None
        or not isinstance(config, TrainingStage)
        or not _longer(before.record["identity"], identity)
    ):
        return
    for state in sorted((kept / before.fingerprint).glob("step-*")):
        taken = int(state.name.removeprefix("step-"))
        if config.steps is not None and taken >= config.steps:
            return
        with atomic_folder(work / "checkpoints" / state.name) as temporary:
            copytree(state, temporary, dirs_exist_ok=True)
        why = _inexact(before, config, taken)
        write_json(work / NOTE, {"from": before.fingerprint, "step": taken, "exact": not why})
        emit(
            {
                "event": "message",
                "message": f"going on with the optimizer of {taken} steps that were taken before",
            }
        )
        if why:
            message = f"not the same as a run of this length from the beginning: {'; '.join(why)}"
            emit({"event": "warning", "message": message})


def note(work: Path) -> dict[str, Any]:
    """What goes into the metrics of a stage that went on: {"went_on": {from, step, exact}}; nothing for others."""
    return {"went_on": read_json(work / NOTE)} if (work / NOTE).exists() else {}


def _longer(old: Identity, new: Identity) -> bool:
    """Whether two identities differ in one length alone, which has grown."""
    changed = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if len(changed) != 1 or changed[0] not in LENGTHS:
        return False
    before, after = old.get(changed[0]), new.get(changed[0])
    return before is not None and after is not None and after > before


def _inexact(before: Artifact, config: TrainingStage, taken: int) -> list[str]:
    """Why going on after so many steps differs from never having stopped."""
    why = []
    if config.schedule != "constant":
        why.append(
            f"`schedule: {config.schedule}` ended at step {taken}, and from there the learning rates are those of the longer run"
        )
    elif config.steps is None or round(config.warmup * taken) != round(config.warmup * config.steps):
        why.append("`warmup` is a share of the steps, and was shorter before")
    if len(before.metrics.get("data", {}).get("sources") or ()) > 1:
        why.append(
            "a mix of sources is dealt out over the whole length, so some rows come twice and others late"
        )
    return why
