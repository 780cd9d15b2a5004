"""Kills the real command with SIGKILL at random moments, goes on, and compares the weights with a run that nobody killed.

    python benchmarks/faults.py --kills 50       every phase in turn, every third kill inside the write of a checkpoint
    python benchmarks/faults.py --kills 9        one in each phase, a few minutes
    python benchmarks/faults.py --stall          what a checkpoint costs the steps around it

The phases are those of `trivium.phases.PHASES`; one that has no recipe here ends the benchmark. Prints the kills survived, how
many of them left a half-written checkpoint behind, and whether the final weights of every phase have the same SHA-256.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from trivium.files import TEMPORARY, sha256
from trivium.phases import PHASES

STEPS, EVERY = 60, 3
COMMON = {"steps": STEPS, "batch": 4, "lr": 3e-3, "checkpoint_every": f"{EVERY} steps", "log_every": 1,
          "precision": "float32", "device": "cpu", "compile": "off"}  # fmt: skip
TALK = [{"kind": "reasoning", "weight": 0.6}, {"kind": "refusals", "weight": 0.4}]
DATA: dict[str, dict[str, Any]] = {
    "corpus": {"kind": "data", "sources": [{"kind": "reasoning"}], "size": "60K"},
    "dialogues": {"kind": "data", "format": "conversations", "sources": TALK, "size": 120},
    "pairs": {"kind": "data", "format": "preferences", "sources": TALK, "size": 60},
    "tasks": {"kind": "data", "format": "conversations", "sources": TALK[:1], "size": 60},
    "vocab": {"kind": "tokenizer", "data": "corpus", "vocab_size": 400},
}
MODEL = {"dim": 32, "layers": 1, "heads": 2, "context": 128}
ONLINE = {"init": "sft", "max_new_tokens": 12, "minibatches": 2}
RECIPES: dict[str, dict[str, Any]] = {
    "pretrain": {"data": "corpus", "tokenizer": "vocab", "model": MODEL},
    "sft": {"init": "pretrain", "data": "dialogues"},
    "dpo": {"init": "sft", "data": "pairs"},
    "orpo": {"init": "pretrain", "data": "pairs"},
    "kto": {"init": "sft", "data": "pairs"},
    "reward": {"init": "sft", "data": "pairs"},
    "ppo": {**ONLINE, "data": "dialogues", "reward_model": "reward"},
    "grpo": {**ONLINE, "data": "tasks", "reward": "reasoning", "group": 2, "kl": 0.1},
    "distill": {
        "teacher": "sft",
        "model": MODEL,
        "data": "dialogues",
        "on_policy": 0.3,
        "max_new_tokens": 12,
    },
}
"""What each phase needs beside COMMON; its stage bears the name of its kind."""


def write_recipe(folder: Path) -> Path:
    missing = set(PHASES) - set(RECIPES)
    if missing:
        sys.exit(f"phases without a recipe in {Path(__file__).name}: {', '.join(sorted(missing))}")
    stages = DATA | {kind: {"kind": kind, **COMMON, **RECIPES[kind]} for kind in PHASES}
    path = folder / "faults.yaml"
    path.write_text(yaml.safe_dump({"name": "faults", "seed": 3, "stages": stages}, sort_keys=False))
    return path


def start(recipe: Path, store: Path, kinds: Sequence[str]) -> subprocess.Popen[bytes]:
    """The command as a user starts it, for these phases and what they need."""
    only = [part for kind in kinds for part in ("--only", kind)]
    where = ("--store", str(store), "--runs", str(store / "runs"), *only)
    return subprocess.Popen(
        [sys.executable, "-m", "trivium", "run", str(recipe), *where],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def finish(recipe: Path, store: Path, kinds: Sequence[str]) -> None:
    if code := start(recipe, store, kinds).wait():
        sys.exit(f"the run ended with exit code {code}")


class Watch:
    """The events of a run as they are written, from where the file ended when the watch began."""

    def __init__(self, store: Path) -> None:
        self.path = store / "runs" / "faults" / "events.jsonl"
        self.place = self.path.stat().st_size if self.path.exists() else 0

    def steps(self, kind: str) -> int:
        """Steps of the stage since the watch began."""
        if not self.path.exists():
            return 0
        lines = self.path.read_bytes()[self.place :].splitlines()
        seen = 0
        for line in lines:
            if line.startswith(b"{") and line.endswith(b"}"):
                event = json.loads(line)
                seen += event.get("event") == "step" and event.get("stage") == kind
        return seen


def half_written(store: Path) -> bool:
    return any(store.glob(f"work/*/checkpoints/{TEMPORARY}*"))


def kill_once(recipe: Path, store: Path, kind: str, rng: np.random.Generator, inside: bool) -> str:
    """Starts the phase and kills it. Returns `killed`, `inside` (a checkpoint was half written) or `missed` (it was done)."""
    watch, process = Watch(store), start(recipe, store, [kind])
    after, delay = int(rng.integers(1, 2 * EVERY + 2)), float(rng.random()) * 0.05
    while process.poll() is None and watch.steps(kind) < after:
        time.sleep(0.002)
    if inside:
        while process.poll() is None and not half_written(store):
            pass
    else:
        time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    if process.wait() != -signal.SIGKILL:
        return "missed"
    return "inside" if half_written(store) else "killed"


# ---- what a checkpoint costs the steps around it -----------------------------------------------------------


def stall(steps: int = 40, every: int = 5) -> None:
    """Steps of the real loop on 5.9 M parameters, with a checkpoint every few: those in which one is copied, or written."""
    import torch
    from train_gpu import Documents

    from trivium.model.config import ModelConfig
    from trivium.model.transformer import Transformer
    from trivium.objectives import NextToken
    from trivium.recipe.training import ModelShape, PretrainStage
    from trivium.train import checkpoint
    from trivium.train.loop import train
    from trivium.train.machine import resolve
    from trivium.train.run import Run

    copies: list[tuple[float, float]] = []
    writes: list[tuple[float, float]] = []

    class Timed(checkpoint.Writer):
        def save(self, *given: Any, **urgent: Any) -> None:
            began = time.perf_counter()
            super().save(*given, **urgent)
            copies.append((began, time.perf_counter()))

        def _write(self, *given: Any) -> None:
            began = time.perf_counter()
            super()._write(*given)
            writes.append((began, time.perf_counter()))

    config = PretrainStage.model_validate(
        {
            "kind": "pretrain", "data": "corpus", "tokenizer": "vocab", "steps": steps, "batch": 8, "device": "cpu",
            "compile": "off", "checkpoint_every": f"{every} steps", "log_every": 1, "samples": None,
        }
    )  # fmt: skip
    shape = ModelConfig.from_shape(ModelShape(), 4096)
    model = Transformer(shape)
    model.initialise(torch.Generator().manual_seed(0))
    clock: list[float] = []

    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "step":
            clock.append(time.perf_counter())

    batches = Documents(shape.vocab_size, shape.context, 8, 8, apart=True)
    checkpoint.Writer = Timed  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as folder:
        train(Run(model.train(), NextToken(), batches, steps, config, resolve(config), Path(folder), listen))

    def during(spans: list[tuple[float, float]], start: float, end: float) -> float:
        return sum(max(0.0, min(end, last) - max(start, first)) for first, last in spans)

    quiet, busy = [], []
    for start, end in list(itertools.pairwise(clock))[every + 1 :]:  # the first copy takes its memory
        copied, written = during(copies, start, end), during(writes, start, end)
        if not copied and not written:
            quiet.append(end - start)
        elif written:
            busy.append((end - start - copied, written))
    usual = float(np.median(quiet))
    beyond = float(np.median([seconds for seconds, _ in busy])) - usual
    copy = float(np.median([end - start for start, end in copies[1:]]))
    write = float(np.median([end - start for start, end in writes]))
    print(
        f"a step: {1e3 * usual:.0f} ms (median of {len(quiet)}; they spread by {1e3 * float(np.std(quiet)):.0f} ms)"
    )
    print(
        f"the copy: {1e3 * copy:.1f} ms, {copy / usual:.2%} of a step; the write beside training: {1e3 * write:.0f} ms"
    )
    print(
        f"a step with a write under way, less the copy: {1e3 * beyond:+.1f} ms, {beyond / usual:+.2%} (of {len(busy)})"
    )
    print(f"threads {torch.get_num_threads()}, load {os.getloadavg()[0]:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--stall", action="store_true", help="measure what a checkpoint costs, and kill nothing"
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--phases", nargs="+", choices=sorted(PHASES), default=list(PHASES))
    options = parser.parse_args()
    if options.stall:
        stall()
        return
    rng = np.random.default_rng(options.seed)
    outcomes: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        recipe = write_recipe(folder)
        calm, harmed = folder / "calm", folder / "harmed"
        same: dict[str, bool] = {}
        finish(recipe, calm, options.phases)
        for place, kind in enumerate(options.phases):
            for number in range(place, options.kills, len(options.phases)):
                outcome = kill_once(recipe, harmed, kind, rng, inside=number % 3 == 2)
                outcomes.append(outcome)
                print(f"{kind}: kill {len(outcomes)} of {options.kills}: {outcome}", flush=True)
        finish(recipe, harmed, options.phases)
        for kind in options.phases:
            hashes = [sha256(s / "runs" / "faults" / kind / "model.safetensors") for s in (calm, harmed)]
            same[kind] = hashes[0] == hashes[1]
            print(f"{kind}: {hashes[0][:16]} undisturbed, {hashes[1][:16]} killed and resumed", flush=True)
    survived = len(outcomes) - outcomes.count("missed")
    print(f"{survived} kills survived, {outcomes.count('inside')} of them inside the write of a checkpoint")
    print(f"hashes equal: {sum(same.values())} of {len(same)} phases")
    if not all(same.values()) or survived < options.kills:
        sys.exit(1)


if __name__ == "__main__":
    main()
