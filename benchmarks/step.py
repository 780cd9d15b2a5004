"""Where a compiled training step's time goes: CPU time of one thread, ours beside the model of transformers.

    python benchmarks/step.py                 5.9 M parameters, both sides, about two minutes
    python benchmarks/step.py --size 50M      42 M parameters

The CPU time of a single thread hardly changes while other work runs on the machine, so this can be measured where
`benchmarks/train.py`, which takes the clock, cannot. Both sides run the same weights on the same tokens, forward and backward in
bf16 autocast under torch.compile, with the same optimizer. Ours also keeps documents within a row apart, and both are counted
with the same FLOPs. Each side is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIZES = {  # name: (shape, vocabulary, rows of a forward pass)
    "6M": ({"dim": 256, "layers": 6, "heads": 4}, 4096, 8),
    "50M": ({"dim": 512, "layers": 8, "heads": 8}, 32000, 4),
}
LENGTH, ACCUMULATE = 256, 4


def best(once: Callable[[], Any], times: int) -> float:
    """CPU seconds of the fastest call."""
    found = float("inf")
    for _ in range(times):
        started = time.process_time()
        once()
        found = min(found, time.process_time() - started)
    return found


def worker(side: str, size: str) -> dict[str, Any]:
    import torch

    from trivium.model import hf
    from trivium.model.config import ModelConfig
    from trivium.model.transformer import Transformer
    from trivium.plan import flops
    from trivium.recipe.training import ModelShape

    torch.set_num_threads(1)
    shape, vocabulary, rows = SIZES[size]
    config = ModelConfig.from_shape(ModelShape(context=LENGTH, **shape), vocabulary)
    model: Any = Transformer(config)
    model.initialise(torch.Generator().manual_seed(1))
    tokens = torch.randint(0, vocabulary, (rows, LENGTH), generator=torch.Generator().manual_seed(0))
    place = torch.arange(LENGTH).expand(rows, LENGTH)
    batch = {"tokens": tokens, "targets": tokens.roll(-1, 1)}
    batch |= {"positions": (place % 100).contiguous(), "doc_id": (place // 100).contiguous()}
    if side == "theirs":
        import transformers

        with tempfile.TemporaryDirectory() as folder:
            hf.save(model, Path(folder), eos=0, pad=0)
            model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    forward = torch.compile(model)

    def step() -> float:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            if side == "theirs":
                loss = forward(input_ids=tokens, labels=tokens).loss
            else:
                loss = -forward(batch, frozenset({"logp"})).logp[:, :-1].mean()
        loss.backward()
        return float(loss.detach())

    started = time.perf_counter()
    first = step()
    warm_up = time.perf_counter() - started
    step()
    square = torch.ones(2048, 2048, dtype=torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    optimizer.step()
    peak = 2 * 2048**3 / best(lambda: torch.mm(square, square), 10)
    seconds = best(step, 8)
    after = best(optimizer.step, 3) + best(lambda: torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0), 3)
    whole = seconds + after / ACCUMULATE
    return {
        "side": side, "ms": 1e3 * seconds, "optimizer_ms": 1e3 * after / ACCUMULATE, "tokens_per_second": tokens.numel() / whole,
        "of_peak": flops.training(config, LENGTH) * tokens.numel() / whole / peak, "peak": peak / 1e9, "warm_up": warm_up,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, "loss": first,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU time of a compiled step.")
    parser.add_argument("--size", choices=list(SIZES), default="6M")
    parser.add_argument("--sides", nargs="*", choices=("ours", "theirs"), default=["ours", "theirs"])
    parser.add_argument("--worker", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(worker(options.worker, options.size)))
        return
    found = {}
    for side in options.sides:
        command = [sys.executable, __file__, "--worker", side, "--size", options.size]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error"}
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True)
        found[side] = one = json.loads(done.stdout.splitlines()[-1])
        print(
            f"{side:>6}: {one['tokens_per_second']:,.0f} tokens/s of one thread, {one['of_peak']:.1%} of the bf16 peak "
            f"({one['peak']:.0f} GFLOP/s); pass {one['ms']:.0f} ms, optimizer's share {one['optimizer_ms']:.1f} ms; "
            f"warm-up {one['warm_up']:.0f} s, {one['memory']:.2f} GB, loss {one['loss']:.3f}"
        )
    if len(found) == 2:
        ratio = found["ours"]["tokens_per_second"] / found["theirs"]["tokens_per_second"]
        print(f"ratio {ratio:.2f}; load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
