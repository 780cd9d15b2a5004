"""The best look at what is held out: whose weights are kept, and when to stop looking (Prechelt 1998, early stopping)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist

from trivium.errors import RecipeError
from trivium.train import checkpoint
from trivium.train.run import Run, State
from trivium.train.validation import validate

LARGER = frozenset({"accuracy", "margin"})
"""Metrics of which more is better; of all others less is."""


def check(run: Run, before: Mapping[str, Any] | None) -> None:
    """RecipeError, before the first step, where there is nothing to choose by. `before`: the look at the start."""
    if not run.config.chooses:
        return
    metric = watched(run)
    if before is None:
        raise RecipeError(
            "`keep_best` and `patience` look at what is held out, and nothing is",
            fix="hold something out in the data stage (`heldout`), or leave them out",
        )
    if metric not in before:
        known = sorted(name for name, value in before.items() if isinstance(value, float))
        raise RecipeError(f"this phase measures no {metric!r}", fix=f"choose from {', '.join(known)}")


def watched(run: Run) -> str:
    return run.config.keep_best or "loss"


def sees(run: Run, state: State, values: Mapping[str, Any], step: int) -> None:
    """Takes note of a look after `step` steps: `best` in the state is its step, its value, and the looks since then."""
    if not run.config.chooses:
        return
    value = float(values[watched(run)])
    best = state.get("best")
    if best is None or _better(run, value, best["value"]):
        state["best"] = {"metric": watched(run), "value": value, "step": step, "since": 0}
    else:
        state["best"] = best | {"since": best["since"] + 1}


def _better(run: Run, value: float, than: float) -> bool:
    if not math.isfinite(value):
        return False
    return not math.isfinite(than) or (value > than if watched(run) in LARGER else value < than)


def ended(run: Run, state: State) -> bool:
    """Whether as many looks as `patience` came since the best one."""
    patience, best = run.config.patience, state.get("best")
    return patience is not None and best is not None and best["since"] >= patience


def is_new(run: Run, state: State) -> bool:
    """Whether the weights of now are the best so far, and have to be kept."""
    return run.config.keep_best is not None and state.get("best", {}).get("step") == state["step"]


def last_look(
    run: Run, state: State, optimizer: torch.optim.Optimizer, writer: checkpoint.Writer
) -> dict[str, Any]:
    """After the last step: what is held out `before` and `after`, of the weights that the phase leaves, and the `best`."""
    if run.validation is None:
        return {}
    after = validate(run)
    if _restore(run, state, optimizer, writer, after):
        after = validate(run)
    looks = {"before": state["before"], "after": after}
    return looks | ({"best": state["best"]} if "best" in state else {})


def _restore(
    run: Run,
    state: State,
    optimizer: torch.optim.Optimizer,
    writer: checkpoint.Writer,
    final: Mapping[str, Any],
) -> bool:
    """Puts the best weights back; `final`: the look after the last step. False where they are those of now, or are gone."""
    if run.config.keep_best is None:
        return False
    if state["step"] % (run.config.validate_every or state["step"]):  # else it was looked at already
        sees(run, state, final, state["step"])
    best = state["best"]
    if best["step"] == state["step"]:
        return False
    writer.finish()
    if dist.is_initialized():
        dist.barrier()
    path = checkpoint.place_of(run.folder, best["step"])
    if not checkpoint.is_whole(path, run.emit):
        message = (
            f"the best weights, of step {best['step']}, could not be kept: the stage leaves its last ones"
        )
        run.emit({"event": "warning", "message": message})
        state["best"] = best | {"lost": True}
        return False
    checkpoint.load(path, run.model, optimizer)
    return True
