"""Training speed on one GPU: first what its matrix products can do, then our own loop on GPT-2's 124M and a 1.3B Llama shape.

    python benchmarks/train_gpu.py                              one GPU; about five minutes
    python benchmarks/train_gpu.py --device cpu --size tiny     the same code on a CPU, to see that it works

Every measurement is a process of its own, with its own memory and compiled code. The steps are those of `trivium.train.loop`:
checks of the loss, clipping, optimizer and events included; rows hold several documents, which attention keeps apart, unless
`--attention causal`. Utilisation counts 6 N + 12 L H E T FLOPs a token (`plan/flops.py`): of the products measured here, and
of the maker's figure for dense ones. float8 is held against the bf16 ceiling too, as only a part of its products is in float8.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SIZES: dict[str, dict[str, Any]] = {  # shape, vocabulary, rows of a forward pass, of a step
    "tiny": {"shape": {"dim": 64, "layers": 2, "heads": 2, "context": 128}, "vocab": 512, "micro": 4, "batch": 8},
    # GPT-2's width, depth and heads; SwiGLU of 2,048 has as many weights as its 4 x 768 in two matrices
    "124M": {"shape": {"dim": 768, "layers": 12, "heads": 12, "hidden": 2048, "context": 1024}, "vocab": 50304,
             "micro": 32, "batch": 128},
    "1.3B": {"shape": {"dim": 2048, "layers": 24, "heads": 16, "hidden": 5504, "context": 2048, "tie_embeddings": False},
             "vocab": 32000, "micro": 8, "batch": 32},
}  # fmt: skip
NOMINAL = {  # the maker's TFLOP/s of dense products: bf16, float8
    "H200": (989, 1979),
    "H100 PCIe": (756, 1513),
    "H100 NVL": (835, 1671),
    "H100": (989, 1979),
    "B200": (2250, 4500),
    "A100": (312, 0),
    "L40S": (362, 733),
}
SKIP = 3  # steps left out of the median: compiling, kernels being chosen, the clock settling
PUBLISHED = """torchtitan publishes no figure for one GPU or for these shapes. Its nearest, in
benchmarks/llama3_h100_202412_torchtitan.md, table 1 (H100 at 500 W): Llama 3.1 8B on 8 GPUs with FSDP, 6,667 tokens/s
a GPU compiled in bf16 (33 to 39% of the nominal peak by its own account), 8,532 with float8, 1.28 times as many."""


class Documents:
    """Random tokens in rows of several documents each: the work of real text without a tokenizer for it."""

    period = 1

    def __init__(self, vocab: int, length: int, micro: int, batch: int, apart: bool) -> None:
        import torch

        generator = torch.Generator().manual_seed(0)
        self.batches: list[Any] = []
        for _ in range(batch // micro):
            tokens = torch.randint(0, vocab, (micro, length), generator=generator)
            place = torch.arange(length).expand(micro, length)
            document = max(8, length * 3 // 8)
            made = {"tokens": tokens, "targets": tokens.roll(-1, 1), "loss_mask": torch.ones(micro, length)}
            made["positions"] = (place % document if apart else place).contiguous()
            if apart:
                made["doc_id"] = (place // document).contiguous()
            self.batches.append(made)

    def batch(self, step: int) -> list[Any]:
        return self.batches


def worker(options: argparse.Namespace) -> dict[str, Any]:
    """One measurement: `--steps` steps of the loop in this process."""
    import torch

    from trivium.model.config import ModelConfig
    from trivium.model.transformer import Transformer
    from trivium.objectives import NextToken
    from trivium.plan import flops
    from trivium.recipe.training import ModelShape, PretrainStage
    from trivium.train import float8
    from trivium.train.loop import train
    from trivium.train.machine import resolve
    from trivium.train.progress import peak_memory
    from trivium.train.run import Run

    about = SIZES[options.worker]
    config = PretrainStage.model_validate(
        {
            "kind": "pretrain", "data": "corpus", "tokenizer": "vocab", "model": about["shape"], "steps": options.steps,
            "batch": about["batch"], "micro_batch": about["micro"], "precision": options.precision, "device": options.device,
            "compile": options.compile, "log_every": 1, "checkpoint_every": "10h", "samples": None,
            "recompute": options.recompute,
        }
    )  # fmt: skip
    machine = resolve(config)
    shape = ModelConfig.from_shape(ModelShape.model_validate(about["shape"]), about["vocab"])
    with torch.device(machine.device):
        model = Transformer(shape)
    model.initialise(torch.Generator(machine.device).manual_seed(0))
    model.recompute = options.recompute == "blocks"
    if machine.float8:
        float8.convert(model)
    clock = [time.perf_counter()]
    losses = []

    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "step":
            clock.append(time.perf_counter())
            losses.append(event["loss"])

    per_token = flops.training(shape, shape.context)
    tokens = about["batch"] * shape.context
    batches = Documents(
        shape.vocab_size, shape.context, about["micro"], about["batch"], options.attention == "documents"
    )
    with tempfile.TemporaryDirectory() as folder:
        train(
            Run(
                model=model.train(),
                objective=NextToken(),
                batches=batches,
                steps=options.steps,
                config=config,
                machine=machine,
                folder=Path(folder),
                emit=listen,
                flops_per_step=per_token * tokens,
            )
        )
    seconds = [after - before for before, after in itertools.pairwise(clock)]
    steady = seconds[min(SKIP, options.steps - 1) :]
    return {
        "parameters": flops.parameters(shape), "tokens_per_second": tokens / statistics.median(steady), "per_token": per_token,
        "warm_up": seconds[0] - statistics.median(steady), "memory": peak_memory(machine.device),
        "first": losses[0], "last": losses[-1],
    }  # fmt: skip


def ceiling(device: str) -> dict[str, float]:
    """FLOP/s of the best square matrix product: bf16, and float8 where the device has it."""
    from trivium.errors import RecipeError
    from trivium.plan.machine import rates
    from trivium.train import float8

    found = {"bf16": rates("bf16", device).peak}
    try:
        float8.check(device)
        found["float8"] = rates("float8", device).peak
    except RecipeError as error:
        print(f"float8 is left out: {error.what}")
    return found


def nominal(device: str) -> tuple[str, dict[str, float]]:
    """The device's name, and its maker's FLOP/s by precision where they are known here."""
    import torch

    if device == "cpu":
        return f"CPU, {torch.get_num_threads()} threads", {}
    name = torch.cuda.get_device_name()
    known = next((peaks for part, peaks in NOMINAL.items() if all(w in name for w in part.split())), (0, 0))
    return name, {kind: peak * 1e12 for kind, peak in zip(("bf16", "float8"), known, strict=True) if peak}


def report(
    size: str, precision: str, found: dict[str, Any], measured: dict[str, float], maker: dict[str, float]
) -> None:
    achieved = found["tokens_per_second"] * found["per_token"]
    shares = [f"{achieved / measured['bf16']:.1%} of the measured bf16 peak"]
    if "bf16" in maker:
        shares.append(f"{achieved / maker['bf16']:.1%} of the nominal one")
    if precision == "float8":
        shares.append(f"{achieved / measured['float8']:.1%} of the measured float8 peak")
    print(
        f"{size} ({found['parameters'] / 1e6:,.0f}M parameters) {precision}: {found['tokens_per_second']:,.0f} tokens/s, "
        f"{achieved / 1e12:,.2f} TFLOP/s, {', '.join(shares)}; warm-up {found['warm_up']:.0f} s, "
        f"{found['memory'] / 1e9:.1f} GB, loss {found['first']:.3f} to {found['last']:.3f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--size", nargs="+", choices=list(SIZES), default=["124M", "1.3B"])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--attention", choices=("documents", "causal"), default="documents")
    parser.add_argument("--recompute", choices=("none", "blocks"), default="none")
    parser.add_argument("--compile", choices=("on", "off"), default="on")
    parser.add_argument("--precision", choices=("bf16", "float8"), help="only this one")
    parser.add_argument("--worker", choices=list(SIZES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(worker(options)))
        return
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("no GPU here: run this on one, or write --device cpu --size tiny to see the code at work")
    if options.device == "cpu" and options.size != ["tiny"]:
        sys.exit("on a CPU these shapes take hours: write --size tiny")
    name, maker = nominal(options.device)
    measured = ceiling(options.device)
    print(f"{name}, torch {torch.__version__}; matrix products:", end=" ")
    print(", ".join(f"{kind} {peak / 1e12:,.2f} TFLOP/s" for kind, peak in measured.items()))
    failed = False
    for size, precision in itertools.product(options.size, measured):
        if options.precision not in (None, precision):
            continue
        passed = [
            f"--{key}={getattr(options, key)}"
            for key in ("device", "steps", "attention", "recompute", "compile")
        ]
        command = [sys.executable, __file__, "--worker", size, "--precision", precision, *passed]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env={**os.environ}, check=False)
        if done.returncode:
            print(f"{size} {precision}: failed (exit code {done.returncode}; the reason stands above)")
            failed = True
            continue
        report(size, precision, json.loads(done.stdout.splitlines()[-1]), measured, maker)
    print(PUBLISHED)
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
