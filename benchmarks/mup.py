"""Does the best learning rate transfer from narrow models to wide ones? With muP and without, in one run.

    python benchmarks/mup.py                       widths 64 to 512, seven learning rates: about an hour on two cores
    python benchmarks/mup.py --widths 32,64 --steps 5 --rates 3      a check that it works
    python benchmarks/mup.py --check                the coordinate check alone: a minute

The text is the source of Python's standard library, byte by byte, so nothing is downloaded. Every run goes through Trivium's
loop. The sweep prints the final loss by width and learning rate, and the best rate of each width; the coordinate check how far a
few steps move the logits, which must not grow with the width (Yang et al. 2022, appendix D.1).
"""

from __future__ import annotations

import argparse
import json
import math
import sysconfig
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from trivium.model.config import ModelConfig
from trivium.model.transformer import Transformer
from trivium.objectives import NextToken
from trivium.recipe.network import ModelShape
from trivium.recipe.training import PretrainStage
from trivium.train.loop import train
from trivium.train.machine import resolve
from trivium.train.run import Run
from trivium.types import Batch

ROWS, CONTEXT, HEAD, BASE = 16, 128, 32, 64
HELD_OUT = 64  # rows, from the end of the text


def text() -> np.ndarray:
    """Bytes of the standard library's top-level modules, in the order of their names."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    return np.frombuffer(b"\n".join(file.read_bytes() for file in files), dtype=np.uint8)


class Rows:
    """Batches of rows from anywhere in `stream`: a pure function of the step. One fixed batch where `fixed`."""

    period = 1

    def __init__(self, stream: np.ndarray, rows: int, fixed: bool = False) -> None:
        self.stream, self.rows, self.fixed = stream, rows, fixed

    def batch(self, step: int) -> list[Batch]:
        generator = np.random.default_rng([7, 0 if self.fixed else step])
        starts = generator.integers(0, len(self.stream) - CONTEXT - 1, self.rows)
        cut = np.stack([self.stream[start : start + CONTEXT + 1] for start in starts]).astype(np.int64)
        tokens = torch.from_numpy(cut)
        positions = torch.arange(CONTEXT)[None].expand(self.rows, CONTEXT)
        return [
            {
                "tokens": tokens[:, :-1].contiguous(),
                "targets": tokens[:, 1:].contiguous(),
                "loss_mask": torch.ones(self.rows, CONTEXT),
                "positions": positions,
                "doc_id": torch.zeros_like(positions),
            }
        ]


def network(width: int, mup: bool) -> Transformer:
    shape = ModelShape(
        dim=width, layers=4, heads=max(1, width // HEAD), context=CONTEXT, mup=mup, mup_base=BASE
    )
    model = Transformer(ModelConfig.from_shape(shape, 256))
    model.initialise(torch.Generator().manual_seed(1))
    return model


def final_loss(width: int, mup: bool, rate: float, steps: int, stream: np.ndarray) -> float:
    """Held-out loss in nats per byte after `steps`; infinite where training diverged."""
    config = PretrainStage.model_validate(
        dict(kind="pretrain", data="text", tokenizer="bytes", steps=steps, batch=ROWS, lr=rate, warmup=0.1,
             schedule="cosine", compile="off", checkpoint_every="10h")
    )  # fmt: skip
    model = network(width, mup)
    machine = resolve(config)
    model.to(machine.device).train()
    held = stream[-HELD_OUT * CONTEXT * 4 :]
    with tempfile.TemporaryDirectory() as folder:
        run = Run(
            model=model,
            objective=NextToken(),
            batches=Rows(stream[: -len(held)], ROWS),
            steps=steps,
            config=config,
            machine=machine,
            folder=Path(folder),
            emit=lambda event: None,
            validation=Rows(held, HELD_OUT, fixed=True),
        )
        try:
            return float(train(run)["after"]["loss"])
        except Exception as error:  # a diverged run is a result of the sweep, not its end
            print(f"  width {width}, rate {rate:.1e}: {error}")
            return math.inf


def coordinates(widths: list[int], stream: np.ndarray) -> Table:
    """How far ten steps at one learning rate move the logits, by width."""
    from trivium.train.optim import adamw

    config = PretrainStage.model_validate(dict(kind="pretrain", data="a", tokenizer="b", steps=9, lr=0.01))
    table = Table("", *(str(width) for width in widths), title="change of the logits after 10 steps (std)")
    for mup in (False, True):
        found = []
        for width in widths:
            model, rows = network(width, mup), Rows(stream, ROWS)
            optimizer = adamw(model, config)
            probe = rows.batch(0)[0]
            with torch.no_grad():
                before = model(probe, {"logits"}).logits
            for step in range(10):
                (-model(rows.batch(step)[0], {"logp"}).logp.mean()).backward()
                for group in optimizer.param_groups:
                    group["lr"] = group["peak"]
                optimizer.step()
                optimizer.zero_grad()
            with torch.no_grad():
                found.append(float((model(probe, {"logits"}).logits - before).std()))
        table.add_row("muP" if mup else "standard", *(f"{value:.2f}" for value in found))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--widths", default="64,128,256,512")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rates", type=int, default=7, help="how many learning rates, each twice the last")
    parser.add_argument("--lowest", type=float, default=2.0**-11)
    parser.add_argument("--check", action="store_true", help="the coordinate check alone")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    widths = [int(width) for width in arguments.widths.split(",")]
    stream, console = text(), Console()
    console.print(coordinates(widths, stream))
    if arguments.check:
        return
    rates = [arguments.lowest * 2**i for i in range(arguments.rates)]
    figures: dict[str, dict[int, list[float]]] = {}
    for mup in (False, True):
        name = "muP" if mup else "standard"
        table = Table(
            "width", *(f"{rate:.1e}" for rate in rates), "best", title=f"{name}: held-out nats per byte"
        )
        figures[name] = {}
        for width in widths:
            started = time.perf_counter()
            losses = [final_loss(width, mup, rate, arguments.steps, stream) for rate in rates]
            figures[name][width] = losses
            best = rates[losses.index(min(losses))]
            table.add_row(str(width), *(f"{loss:.3f}" for loss in losses), f"{best:.1e}")
            console.print(f"{name}, width {width}: {time.perf_counter() - started:.0f} s")
        console.print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps({"rates": rates, "losses": figures}, indent=2))


if __name__ == "__main__":
    main()
