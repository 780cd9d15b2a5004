"""The memory that the plan counts against the real peak of training steps here, over shapes, precisions and layouts.

    python benchmarks/memory.py                              all cases: two minutes of one core
    python benchmarks/memory.py usual "adapters, int8, wide"   these alone

Each case is a process of its own (each rank, where there are several, joined by gloo) that takes three steps of the loop. The
peak is the resident size that the kernel saw (VmHWM) above what was resident before the model was made, on the rank that held
most. Blocks of 64 KiB and more go straight back to the kernel when they are freed, so what the allocator keeps is not counted.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import multiprocessing
import os
import socket
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from trivium.model import lora
from trivium.model.config import Experts, ModelConfig
from trivium.model.transformer import Transformer
from trivium.objectives import NextToken
from trivium.pipeline.rehearsal import Same
from trivium.plan import flops, memory
from trivium.recipe.network import Adapter
from trivium.recipe.parallel import Parallel
from trivium.recipe.training import PretrainStage
from trivium.train.distributed import ALONE, Mesh, clip_gradients, start, stop, sum_gradients
from trivium.train.loop import passes
from trivium.train.machine import Machine
from trivium.train.optim import build
from trivium.train.parallel.apply import cut, parallelise
from trivium.train.parallel.pipeline import Pipeline, Stage
from trivium.train.run import Run

STEPS = 3
M_MMAP_THRESHOLD = -3  # of malloc.h


class Case(NamedTuple):
    """A shape (over the usual one), rows of a micro-batch, and how they lie."""

    name: str
    shape: dict[str, Any] = {}
    rows: int = 4
    micro: int = 2  # micro-batches of a step
    recompute: bool = False
    z_loss: float = 0.0
    layout: dict[str, int] = {}
    bf16: bool = False
    adapter: Adapter | None = None


USUAL = dict(
    vocab_size=4096,
    dim=256,
    layers=6,
    heads=8,
    kv_heads=4,
    head_dim=32,
    hidden=768,
    context=256,
    tie_embeddings=True,
)
MOE = {"experts": Experts(8, 2, 384, shared=1)}
CASES = [
    Case("usual"),
    Case("wide", {"dim": 512, "head_dim": 64, "hidden": 1536}, rows=2),
    Case("deep", {"layers": 16}),
    Case("hidden x 2", {"hidden": 1536}),
    Case("all heads keep keys", {"kv_heads": 8}),
    Case("vocabulary x 4", {"vocab_size": 16384}),
    Case("own output layer", {"tie_embeddings": False}),
    Case("rows x 4", rows=16),
    Case("context x 4", {"context": 1024}, rows=2),
    Case("one row", rows=1, micro=4),
    Case("recompute", recompute=True, rows=8),
    Case("recompute, deep", {"layers": 16}, rows=8, recompute=True),
    Case("z-loss", z_loss=1e-4),
    Case("no gate", {"gated": False}),
    Case("experts", MOE),
    Case("bf16", {"context": 512}, bf16=True, rows=4),  # shorter rows: attention is written out on a CPU
    Case("bf16, recompute", {"context": 512}, bf16=True, rows=4, recompute=True),
    Case("adapters", adapter=Adapter()),
    Case(
        "adapters, int8, wide",
        {"dim": 512, "head_dim": 64, "hidden": 1536},
        rows=2,
        adapter=Adapter(quantize="int8"),
    ),
    Case("adapters, shard 2", layout={"shard": 2}, adapter=Adapter()),
    Case("data 2", layout={"data": 2}),
    Case("shard 2", layout={"shard": 2}),
    Case("shard 2, recompute", rows=8, recompute=True, layout={"shard": 2}),
    Case("tensor 2", layout={"tensor": 2}),
    Case("context 2", {"context": 512}, layout={"context": 2}),
    Case("pipeline 2", layout={"pipeline": 2}),
    Case("expert 2", MOE, layout={"data": 2, "expert": 2}),
]


def resident(field: str) -> int:
    """Bytes of /proc/self/status."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def measured(case: Case, port: int, rank: int, answers: Any) -> None:
    """Puts the peak of one rank, bytes, into `answers`."""
    torch.set_num_threads(1)
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**16)
    config, parallel = ModelConfig(**{**USUAL, **case.shape}), Parallel(**case.layout)
    os.environ |= {"WORLD_SIZE": str(parallel.ranks), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    mesh = start(dict(parallel), "cpu") if parallel.ranks > 1 else ALONE
    # libraries and what torch takes once are no part of a step: one of a tiny model brings them in
    small = replace(config, vocab_size=256, dim=64, layers=2, head_dim=8, hidden=64, context=64)
    _steps(case, small, mesh, parallel, rank, 1)
    gc.collect()
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    _steps(case, config, mesh, parallel, rank, STEPS)
    answers.put(resident("VmHWM") - before)
    stop()


def _steps(case: Case, config: ModelConfig, mesh: Mesh, parallel: Parallel, rank: int, steps: int) -> None:
    stage = stage_of(case, parallel)
    model = Transformer(config)
    model.initialise(torch.Generator().manual_seed(rank))
    if case.adapter is not None:
        lora.attach(model, case.adapter, torch.Generator().manual_seed(0))
    model.recompute, model.ragged = case.recompute, False
    root = parallelise(model, mesh, bf16=case.bf16)
    objective = NextToken(case.z_loss)
    pipeline = Pipeline(root, mesh, objective, "cpu") if isinstance(root, Stage) else None
    rows = stage.model_copy(update={"batch": case.rows * case.micro})
    batches = cut(model, Same(config.vocab_size, rows, config.context))
    machine = Machine("cpu", bf16=case.bf16)
    run = Run(model, objective, batches, steps, stage, machine, Path(), lambda _: None, pipeline=pipeline)
    optimizer = build(model, stage)
    for step in range(steps):
        passes(run, model, batches.batch(step))
        sum_gradients(model)
        clip_gradients(model, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def stage_of(case: Case, parallel: Parallel) -> PretrainStage:
    return PretrainStage(
        kind="pretrain",
        data="corpus",
        tokenizer="vocab",
        tokens=1,
        batch=case.rows * case.micro * parallel.data * parallel.shard,
        micro_batch=case.rows,
    )


def peak(case: Case) -> int:
    """Of the rank that held most."""
    ranks = Parallel(**case.layout).ranks
    spawn = multiprocessing.get_context("fork")
    answers = spawn.Queue()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    several = [spawn.Process(target=measured, args=(case, port, rank, answers)) for rank in range(ranks)]
    for process in several:
        process.start()
    found = [answers.get(timeout=600) for _ in several]
    for process in several:
        process.join()
    return max(found)


def planned(case: Case) -> memory.Memory:
    config, parallel = ModelConfig(**{**USUAL, **case.shape}), Parallel(**case.layout)
    trained, inside = flops.adapted(config, case.adapter) if case.adapter else (None, 0)
    return memory.training(
        config,
        parallel,
        trained=trained,
        int8=inside if case.adapter and case.adapter.quantize == "int8" else 0,
        rows=case.rows,
        context=config.context,
        bf16=case.bf16,
        recompute=case.recompute,
        z_loss=case.z_loss > 0,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="CASE", help="these alone")
    names = parser.parse_args().names
    cases = [case for case in CASES if not names or case.name in names]
    print("| case | planned, MiB | measured | off |\n|---|---:|---:|---:|")
    errors = []
    for case in cases:
        plan, real = planned(case).total, peak(case)
        errors.append(plan / real - 1)
        print(f"| {case.name} | {plan / 2**20:.1f} | {real / 2**20:.1f} | {errors[-1]:+.1%} |", flush=True)
    near = sum(abs(error) <= 0.1 for error in errors)
    print(f"\n{near} of {len(errors)} within 10%, median {statistics.median(map(abs, errors)):.1%}")


if __name__ == "__main__":
    main()
