"""Checkpoints of a run in progress: everything needed to go on as if it had never stopped.

A checkpoint is a folder `step-N` with `model.safetensors`, `optimizer.safetensors`, `state.json` and `manifest.json` (SHA-256
of the others). It is filled under a temporary name and renamed, so a folder named `step-N` is whole; damage after that
is found by the manifest, and the one before it is used instead.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from trivium.errors import ArtifactError
from trivium.files import TEMPORARY, atomic_folder, sha256, verify, write_json
from trivium.train.distributed import rank
from trivium.train.parallel.state import load_optimizer, optimizer_tensors, place, trained, whole
from trivium.types import Emit

KEEP = 2


def save(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> Path:
    """Writes `folder/step-N` (N from `state`) and drops all but the newest two. OSError if the disk is full.

    All ranks call it together; the first one writes. What is written is whole, so that other layouts can go on from it.
    """
    target = folder / f"step-{state['step']:08d}"
    weights, moments = whole(trained(model)), whole(optimizer_tensors(model, optimizer))
    if rank() != 0:
        return target
    for left in folder.glob(f"{TEMPORARY}*"):  # by a save that was killed: the folder has one writer
        shutil.rmtree(left, ignore_errors=True)
    for later in steps(folder):
        if later >= target:  # refused on load as damaged, else the run would have gone on from there
            shutil.rmtree(later)
    with atomic_folder(target) as temporary:
        try:
            save_file(
                {name: tensor.contiguous() for name, tensor in weights.items()},
                temporary / "model.safetensors",
            )
            save_file(moments, temporary / "optimizer.safetensors")
        except SafetensorError as error:  # what it makes of an OSError
            raise OSError(str(error)) from None
        write_json(temporary / "state.json", state)
        names = ("model.safetensors", "optimizer.safetensors", "state.json")
        write_json(temporary / "manifest.json", {name: sha256(temporary / name) for name in names})
    for old in steps(folder)[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def steps(folder: Path) -> list[Path]:
    """Checkpoint folders, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def newest(folder: Path, emit: Emit) -> Path | None:
    """The newest whole checkpoint, or None. A damaged one is named in an event and passed over."""
    for path in reversed(steps(folder)):
        try:
            verify(path, json.loads((path / "manifest.json").read_text(encoding="utf-8")))
        except (ArtifactError, OSError, ValueError) as error:
            emit({"event": "warning", "message": f"checkpoint {path.name} is passed over: {error}"})
            continue
        return path
    return None


def load(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Puts a checkpoint into `model` and `optimizer`; returns its state."""
    place(load_file(path / "model.safetensors"), trained(model))
    load_optimizer(model, optimizer, load_file(path / "optimizer.safetensors"))
    state: dict[str, Any] = json.loads((path / "state.json").read_text(encoding="utf-8"))
    return state
