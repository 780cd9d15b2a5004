"""A step of Muon: ours beside torch's, on the matrices of the quickstart's model and of a wider one.

    python benchmarks/muon.py

Both take the same steps in turns and are timed by processor seconds of one thread, so that other work on the machine counts
little. What remains of their difference after the steps is printed too: torch's iteration runs in bf16 everywhere, ours in
float32 where bf16 is emulated.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

import torch

from trivium.cores import native_bf16
from trivium.train.muon import Muon

MODELS = {"2.6 M (192 wide, 5 layers)": (192, 512, 5), "20 M (512 wide, 8 layers)": (512, 1408, 8)}


def matrices(width: int, hidden: int, layers: int) -> list[torch.nn.Parameter]:
    """Random matrices of the blocks' shapes: four of attention, three of SwiGLU."""
    shapes = [(width, width)] * 4 + [(hidden, width)] * 2 + [(width, hidden)]
    generator = torch.Generator().manual_seed(0)
    return [
        torch.nn.Parameter(torch.randn(shape, generator=generator)) for _ in range(layers) for shape in shapes
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="A step of Muon beside torch's.")
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    bf16 = "with" if native_bf16("cpu") else "without"
    print(f"{bf16} bf16 instructions; torch {torch.__version__}; load before: {os.getloadavg()[0]:.2f}")
    print("| model | torch, s a step | ours, s a step | torch / ours | difference |\n|---|---|---|---|---|")
    for name, shape in MODELS.items():
        ours, theirs = matrices(*shape), matrices(*shape)
        optimizers = {
            "torch": torch.optim.Muon(theirs, lr=0.01, adjust_lr_fn="match_rms_adamw"),
            "ours": Muon(ours, lr=0.01),
        }
        seconds: dict[str, list[float]] = {side: [] for side in optimizers}
        for _ in range(options.steps + 1):
            for left, right in zip(ours, theirs, strict=True):
                left.grad = torch.randn_like(left)
                right.grad = left.grad.clone()
            for side, optimizer in optimizers.items():
                started = time.process_time()
                optimizer.step()
                seconds[side].append(time.process_time() - started)
        median = {side: statistics.median(times[1:]) for side, times in seconds.items()}  # the first warms up
        pairs = zip(ours, theirs, strict=True)
        apart = max(float((left - right).detach().norm() / right.detach().norm()) for left, right in pairs)
        ratio = median["torch"] / median["ours"]
        print(
            f"| {name} | {median['torch']:.3f} | {median['ours']:.3f} | {ratio:.1f} | {apart:.1e} |",
            flush=True,
        )
    print(f"load after: {os.getloadavg()[0]:.2f}")


if __name__ == "__main__":
    main()
