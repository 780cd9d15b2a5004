"""How the time of a step grows with layers, width, sequence length and batch, beside the FLOPs that plan/flops.py counts.

    python benchmarks/scaling.py                        four sizes an axis, compiled: a quarter of an hour on two cores
    python benchmarks/scaling.py --quick                three small sizes an axis, eager: under a minute
    python benchmarks/scaling.py --out scaling.svg      also draws time against FLOPs

Every run goes through Trivium's loop. From one shape, one axis at a time is doubled. The table has the time of the fastest step,
the speed, and per axis two exponents: of time in size and of time in FLOPs. An exponent in FLOPs of 1 means that time is what the
count says; below 1, that small shapes pay for more than arithmetic.
"""

from __future__ import annotations

import argparse
import itertools
import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from trivium.model.config import ModelConfig
from trivium.model.transformer import Transformer
from trivium.objectives import NextToken
from trivium.plan import flops
from trivium.plan.machine import rates
from trivium.recipe.network import ModelShape
from trivium.recipe.training import PretrainStage
from trivium.train.loop import train
from trivium.train.machine import resolve
from trivium.train.run import Run
from trivium.types import Batch

VOCABULARY, HEAD = 4096, 64
COLOURS = {"layers": "#1b6ca8", "width": "#c1440e", "sequence": "#2e7d32", "batch": "#7b1fa2"}


@dataclass(frozen=True)
class Shape:
    layers: int = 4
    width: int = 256
    sequence: int = 256
    batch: int = 8

    @property
    def config(self) -> ModelConfig:
        heads = max(1, self.width // HEAD)
        shape = ModelShape(dim=self.width, layers=self.layers, heads=heads, context=self.sequence)
        return ModelConfig.from_shape(shape, VOCABULARY)

    @property
    def flops(self) -> float:
        """Of one step."""
        return self.batch * self.sequence * flops.training(self.config, self.sequence)


FULL = (
    Shape(),
    {
        "layers": (2, 4, 8, 16),
        "width": (128, 256, 512, 1024),
        "sequence": (128, 256, 512, 1024),
        "batch": (4, 8, 16, 32),
    },
)
QUICK = (
    Shape(2, 128, 128, 4),
    {"layers": (2, 4, 8), "width": (128, 256, 512), "sequence": (128, 256, 512), "batch": (4, 8, 16)},
)


class Noise:
    """One batch of random tokens: what they are does not change the time."""

    period = 1

    def __init__(self, shape: Shape) -> None:
        drawn = np.random.default_rng(1).integers(0, VOCABULARY, (shape.batch, shape.sequence + 1))
        tokens = torch.from_numpy(drawn)
        positions = torch.arange(shape.sequence).expand(shape.batch, -1)
        self.only: Batch = {
            "tokens": tokens[:, :-1].contiguous(),
            "targets": tokens[:, 1:].contiguous(),
            "loss_mask": torch.ones(shape.batch, shape.sequence),
            "positions": positions,
            "doc_id": torch.zeros_like(positions),
        }

    def batch(self, step: int) -> list[Batch]:
        return [self.only]


def seconds(shape: Shape, steps: int, compile: str) -> float:
    """Time of the fastest step after the first: a busy machine only ever looks slower."""
    config = PretrainStage.model_validate(
        dict(kind="pretrain", data="a", tokenizer="b", steps=steps, batch=shape.batch, compile=compile,
             checkpoint_every="10h", log_every=1)
    )  # fmt: skip
    torch.compiler.reset()
    model = Transformer(shape.config)
    model.initialise(torch.Generator().manual_seed(1))
    machine = resolve(config)
    model.to(machine.device).train()
    ended: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        run = Run(
            model=model,
            objective=NextToken(),
            batches=Noise(shape),
            steps=steps,
            config=config,
            machine=machine,
            folder=Path(folder),
            emit=lambda event: ended.append(time.perf_counter()) if event["event"] == "step" else None,
        )
        train(run)
    return min(after - before for before, after in itertools.pairwise(ended))


def slope(xs: list[float], ys: list[float]) -> float:
    """The exponent of y in x: least squares on logarithms."""
    return float(np.polyfit(np.log(xs), np.log(ys), 1)[0])


Found = dict[str, list[tuple[int, Shape, float]]]


def table(found: Found, peak: float) -> Table:
    shown = Table(
        "axis", "size", "GFLOP a step", "ms a step", "GFLOP/s", "of peak", "time ~ size^", "time ~ FLOP^"
    )
    for axis, runs in found.items():
        times, work = [taken for *_, taken in runs], [shape.flops for _, shape, _ in runs]
        exponents = slope([float(size) for size, *_ in runs], times), slope(work, times)
        for number, (size, shape, taken) in enumerate(runs):
            last = number == len(runs) - 1
            speed = shape.flops / taken
            shown.add_row(
                axis, str(size), f"{shape.flops / 1e9:,.1f}", f"{taken * 1e3:,.1f}", f"{speed / 1e9:,.0f}",
                f"{speed / peak:.0%}", *(f"{e:.2f}" if last else "" for e in exponents), end_section=last,
            )  # fmt: skip
    return shown


def drawing(found: Found, peak: float) -> str:
    """Time against FLOPs, both logarithmic, as SVG; the line is the measured peak of matrix products."""
    points = [(shape.flops, taken) for runs in found.values() for _, shape, taken in runs]
    low, high = (f(math.log10(x) for x, _ in points) for f in (min, max))
    bottom = math.log10(10**low / peak)
    top = max(math.log10(y) for _, y in points)

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            70 + 500 * (math.log10(x) - low) / (high - low),
            350 - 310 * (math.log10(y) - bottom) / (top - bottom),
        )

    def line(ends: list[tuple[float, float]], colour: str, style: str = "") -> str:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*end) for end in ends))
        return f'<polyline points="{path}" fill="none" stroke="{colour}" {style}/>'

    def text(x: float, y: float, words: str, colour: str = "#333") -> str:
        return f'<text x="{x:.0f}" y="{y:.0f}" fill="{colour}">{words}</text>'

    parts = [line([(10**low, 10**low / peak), (10**high, 10**high / peak)], "#999", 'stroke-dasharray="5 4"')]
    parts.append(text(380, 345, f"matmul peak, {peak / 1e9:,.0f} GFLOP/s", "#777"))
    for number, (axis, runs) in enumerate(found.items()):
        ends = [(shape.flops, taken) for _, shape, taken in runs]
        parts.append(line(ends, COLOURS[axis]))
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{COLOURS[axis]}"/>'
            for x, y in (place(*e) for e in ends)
        ]
        parts.append(text(85, 50 + 18 * number, axis, COLOURS[axis]))
    for exponent in range(math.ceil(low), math.floor(high) + 1):
        parts.append(text(place(10**exponent, 10**top)[0] - 12, 385, f"1e{exponent}"))
    for exponent in range(math.ceil(bottom), math.floor(top) + 1):
        parts.append(text(15, place(10**low, 10**exponent)[1] + 4, f"{10**exponent:g} s"))
    parts.append(text(260, 408, "FLOP in a step"))
    parts.append(text(15, 22, "seconds a step"))
    style = 'font-family="sans-serif" font-size="13"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="600" height="420" {style}>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small, eager")
    parser.add_argument("--steps", type=int, default=0, help="steps of each run; 0: 8, or 5 if quick")
    parser.add_argument("--out", type=Path, help="an SVG of time against FLOPs")
    options = parser.parse_args()
    base, axes = QUICK if options.quick else FULL
    steps = options.steps or (5 if options.quick else 8)
    compile = "off" if options.quick else "on"
    peak = rates().peak
    known: dict[Shape, float] = {}
    found: Found = {}
    for axis, sizes in axes.items():
        for size in sizes:
            shape = Shape(**{**vars(base), axis: size})
            if shape not in known:
                known[shape] = seconds(shape, steps, compile)
            found.setdefault(axis, []).append((size, shape, known[shape]))
    console = Console(width=110)
    console.print(
        f"from {base}; {'eager' if options.quick else 'compiled'}, {torch.get_num_threads()} threads"
    )
    console.print(table(found, peak))
    if options.out:
        options.out.write_text(drawing(found, peak), encoding="utf-8")
        console.print(f"drawn in {options.out}")


if __name__ == "__main__":
    main()
