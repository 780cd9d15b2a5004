"""Checkpoints of a run in progress: everything needed to go on as if it had never stopped.

A checkpoint is a folder `step-N` with `model.safetensors`, `optimizer.safetensors`, `state.json` and `manifest.json` (SHA-256
of the others). It is filled under a temporary name and renamed, so a folder named `step-N` is whole; damage after that
is found by the manifest, and the one before it is used instead. Tensors are whole, by name: any number of ranks can go on.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from trivium.errors import ArtifactError
from trivium.files import TEMPORARY, atomic_folder, read_json, sha256, verify, write_json, write_tensors
from trivium.train.distributed import rank
from trivium.train.parallel.state import load_optimizer, optimizer_tensors, place, trained, whole
from trivium.types import Emit

RANDOM = {"cpu": "random/cpu", "cuda": "random/cuda"}
"""Where the states of torch's generators are kept, among the optimizer's tensors."""


class Writer:
    """Writes checkpoints in a thread, one at a time: training waits only while tensors are copied. A context manager.

    What comes of a write is told by the next call (`poll`, `save` or `finish`), as an event from the calling thread. A full
    disk is a warning: training goes on, and the last good checkpoint is still there. Any other error is raised there.
    """

    def __init__(
        self, folder: Path, emit: Emit, *, keep_last: int = 2, keep_every: int | None = None
    ) -> None:
        self.folder, self.emit = folder, emit
        self.keep_last, self.keep_every = keep_last, keep_every
        self.thread: threading.Thread | None = None
        self.error: BaseException | None = None
        self.buffers: dict[str, Tensor] = {}
        self.step = 0

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.thread is not None:
            self.thread.join()
        if error is None:
            self.finish()

    @property
    def busy(self) -> bool:
        return self.thread is not None and self.thread.is_alive()

    def save(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any], urgent: bool = False
    ) -> None:
        """Takes a copy of everything and writes it to `folder/step-N` (N from `state`). All ranks call it together.

        `urgent`: nothing else is going on, so the writing thread does not stand back.
        """
        self.finish()
        weights = whole(trained(model))
        moments = whole(optimizer_tensors(model, optimizer)) | _random_states()
        if rank() != 0:
            return
        copies = self._copied("model", weights), self._copied("optimizer", moments)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        kept = json.loads(json.dumps(state))
        self.step = state["step"]
        self.thread = threading.Thread(target=self._write, args=(*copies, kept, urgent), name="checkpoint")
        self.thread.start()

    def _copied(self, part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copies in host memory that is taken once and used again: no allocation in the middle of training."""
        copies = {}
        for name, tensor in tensors.items():
            buffer = self.buffers.get(f"{part}/{name}")
            if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
                buffer = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
                self.buffers[f"{part}/{name}"] = buffer
            copies[name] = buffer.copy_(tensor, non_blocking=True)
        return copies

    def _write(
        self, weights: dict[str, Tensor], moments: dict[str, Tensor], state: dict[str, Any], urgent: bool
    ) -> None:
        try:
            if not urgent:
                _yield_to_training()
            write(self.folder, weights, moments, state)
            drop_old(self.folder, self.keep_last, self.keep_every)
        except BaseException as error:  # told by the thread that trains
            self.error = error

    def poll(self) -> None:
        """Tells what came of a write that has ended."""
        if self.thread is not None and not self.thread.is_alive():
            self.finish()

    def finish(self) -> str:
        """Waits for the write under way and tells what came of it; returns it in words."""
        if self.thread is None:
            return "no checkpoint was written"
        self.thread.join()
        self.thread, error, self.error = None, self.error, None
        if isinstance(error, OSError):  # a full disk must not end the training
            self.emit({"event": "warning", "message": f"no checkpoint at step {self.step}: {error}"})
            return f"no checkpoint could be written ({error}), only earlier ones are kept"
        if error is not None:
            raise error
        self.emit({"event": "checkpoint", "step": self.step})
        return "the checkpoint is kept"


def write(
    folder: Path, weights: Mapping[str, Tensor], moments: Mapping[str, Tensor], state: dict[str, Any]
) -> Path:
    """Writes `folder/step-N` (N from `state`). OSError if the disk is full."""
    target = place_of(folder, state["step"])
    for left in folder.glob(f"{TEMPORARY}*"):  # by a save that was killed: the folder has one writer
        shutil.rmtree(left, ignore_errors=True)
    for later in steps(folder):
        if later >= target:  # refused on load as damaged, else the run would have gone on from there
            shutil.rmtree(later)
    with atomic_folder(target) as temporary:
        manifest = {
            name: write_tensors(temporary / name, tensors)
            for name, tensors in (("model.safetensors", weights), ("optimizer.safetensors", moments))
        }
        write_json(temporary / "state.json", state)
        manifest["state.json"] = sha256(temporary / "state.json")
        write_json(temporary / "manifest.json", manifest)
    return target


def drop_old(folder: Path, keep_last: int, keep_every: int | None) -> None:
    """Leaves the newest `keep_last` checkpoints, of every `keep_every` steps the first one, and the best ones that these know."""
    found = steps(folder)
    kept = set(found[-keep_last:])
    if keep_every is not None:
        first: dict[int, Path] = {}
        for path in found:
            first.setdefault(int(path.name.removeprefix("step-")) // keep_every, path)
        first.pop(0, None)  # before the first `keep_every` steps
        kept |= set(first.values())
    for path in list(kept):
        with contextlib.suppress(OSError, ValueError):  # damaged: whoever reads it is told
            if best := read_json(path / "state.json").get("best"):
                kept.add(place_of(folder, best["step"]))
    for old in found:
        if old not in kept:
            shutil.rmtree(old, ignore_errors=True)


def place_of(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}"


def steps(folder: Path) -> list[Path]:
    """Checkpoint folders, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def newest(folder: Path, emit: Emit) -> Path | None:
    """The newest whole checkpoint, or None. A damaged one is named in an event and passed over."""
    return next((path for path in reversed(steps(folder)) if is_whole(path, emit)), None)


def is_whole(path: Path, emit: Emit) -> bool:
    """Whether a checkpoint is there and undamaged; if not, an event says why."""
    try:
        verify(path, json.loads((path / "manifest.json").read_text(encoding="utf-8")))
    except (ArtifactError, OSError, ValueError) as error:
        emit({"event": "warning", "message": f"checkpoint {path.name} is passed over: {error}"})
        return False
    return True


def load(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Puts a checkpoint into `model` and `optimizer`; returns its state."""
    place(load_file(path / "model.safetensors"), trained(model))
    moments = load_file(path / "optimizer.safetensors")
    optimizer.state.clear()  # a checkpoint from before the first step holds none
    load_optimizer(model, optimizer, moments)
    if RANDOM["cpu"] in moments:
        torch.set_rng_state(moments[RANDOM["cpu"]])
    if RANDOM["cuda"] in moments and torch.cuda.is_available():
        torch.cuda.set_rng_state(moments[RANDOM["cuda"]])
    state: dict[str, Any] = json.loads((path / "state.json").read_text(encoding="utf-8"))
    return state


def _yield_to_training() -> None:
    """This thread takes what the training leaves of the processor (Linux, where a priority is a thread's own)."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


def _random_states() -> dict[str, Tensor]:
    states = {RANDOM["cpu"]: torch.get_rng_state()}
    if torch.cuda.is_available():
        states[RANDOM["cuda"]] = torch.cuda.get_rng_state()
    return states
