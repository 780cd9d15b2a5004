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
from torch import Tensor, nn

from trivium.errors import ArtifactError
from trivium.files import TEMPORARY, atomic_folder, sha256, verify, write_json
from trivium.types import Emit

KEEP = 2


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": value for index, entry in state.items() for name, value in entry.items()}


def save(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> Path:
    """Writes `folder/step-N` (N from `state`) and drops all but the newest two. OSError if the disk is full."""
    target = folder / f"step-{state['step']:08d}"
    for left in folder.glob(f"{TEMPORARY}*"):  # by a save that was killed: the folder has one writer
        shutil.rmtree(left, ignore_errors=True)
    for later in steps(folder):
        if later >= target:  # refused on load as damaged, else the run would have gone on from there
            shutil.rmtree(later)
    with atomic_folder(target) as temporary:
        weights = {n: t.detach().contiguous() for n, t in model.state_dict().items()}
        try:
            save_file(weights, temporary / "model.safetensors")
            save_file(_optimizer_tensors(optimizer), temporary / "optimizer.safetensors")
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
    model.load_state_dict(load_file(path / "model.safetensors"))
    entries: dict[int, dict[str, Tensor]] = {}
    for key, value in load_file(path / "optimizer.safetensors").items():
        index, name = key.split(".", 1)
        entries.setdefault(int(index), {})[name] = value
    whole = optimizer.state_dict()
    whole["state"] = entries
    optimizer.load_state_dict(whole)
    state: dict[str, Any] = json.loads((path / "state.json").read_text(encoding="utf-8"))
    return state
