"""The methods of alignment beside each other: `recipes/alignment.yaml` with several seeds, one table with intervals.

    make quickstart                                      its base model is the start
    python benchmarks/alignment.py                       three seeds
    python benchmarks/alignment.py --only grpo --seeds 1 one method, to try something: `-o grpo.lr=3e-4`
    python benchmarks/alignment.py --seeds 1 --methods dpo ppo grpo      a table of these alone

The start is the same for all; the seed of a stage moves its order of data, its replies and its new weights. Intervals are
Student's t at 95% over the seeds: they say how much a result hangs on luck in training, while n (held-out items) bounds what a
single figure can say.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from trivium.files import read_json

RECIPE = Path(__file__).parents[1] / "recipes" / "alignment.yaml"
METHODS = ("dpo", "orpo", "kto", "ppo", "grpo", "distilled")
SMALL = ("small_plain", "small_taught")
SEEDED = (*METHODS, *SMALL, "judge", "traces")
"""Stages that draw anew with every seed."""
COLUMNS = {
    "preference_accuracy": "preference accuracy",
    "beats_rejected": "win rate",
    "reasoning_exact_match": "reasoning",
    "refusal_rate": "refuses harm",
    "kl_per_token": "KL/token",
    "reply_tokens": "reply length",
    "repetition": "repetition",
    "declined": "declines",
    "unfinished": "cut off",
    "response_loss": "response loss",
}
PERCENT = {"preference_accuracy", "beats_rejected", "reasoning_exact_match", "refusal_rate", "repetition", "declined",
           "unfinished"}  # fmt: skip
T95 = {1: math.inf, 2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Two-sided 95% quantile of Student's t, by number of seeds."""


def run(seed: int, stages: list[str], overrides: list[str], runs: Path) -> Path:
    """Runs the recipe with `seed` in the seeded stages; returns the folder of links to what it made.

    Every stage is a process of its own, so that its memory is its own.
    """
    folder = runs / f"seed-{seed}"
    command = ["trivium", "run", str(RECIPE), "--runs", str(folder)]
    for value in [*(f"{name}.seed={seed}" for name in SEEDED), *overrides]:
        command += ["-o", value]
    for name in stages:
        if subprocess.run([*command, "--only", name], check=False).returncode:
            sys.exit(f"{name} failed with seed {seed}")
    return folder / "alignment"


def interval(values: list[float], percent: bool) -> str:
    """Mean and half width of the 95% interval."""
    scale, digits = (100, 1) if percent else (1, 3)
    mean = statistics.fmean(values) * scale
    if len(values) == 1:
        return f"{mean:.{digits}f}"
    half = T95[len(values)] * statistics.stdev(values) * scale / math.sqrt(len(values))
    return f"{mean:.{digits}f} ± {half:.{digits}f}"


def cost(folder: Path, stage: str) -> tuple[float, float]:
    """(minutes, GB of memory at the most) of a stage."""
    record = read_json(folder / stage / "artifact.json")
    return record["seconds"] / 60, record["metrics"]["memory"] / 1e9


def table(results: list[dict[str, Any]], names: list[str], folders: list[Path]) -> str:
    """Markdown: a row per method."""
    head = ["method", *COLUMNS.values(), "minutes", "memory (GB)"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name in names:
        cells = []
        for metric in COLUMNS:
            found = [
                r["models"][name][metric]["value"] for r in results if metric in r["models"].get(name, {})
            ]
            found = [value for value in found if value is not None]
            found = found if name in SEEDED else found[:1]
            cells.append(interval(found, metric in PERCENT) if found else "–")
        spent = [cost(folder, name) for folder in folders] if name in (*METHODS, *SMALL) else []
        for number in (0, 1):
            cells.append(f"{statistics.fmean(s[number] for s in spent):.1f}" if spent else "–")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def rewards(folders: list[Path], stage: str) -> str:
    """Held-out reward before and after an online stage."""
    metrics = [read_json(folder / stage / "artifact.json")["metrics"] for folder in folders]
    before, after = ([m[when]["reward"] for m in metrics] for when in ("before", "after"))
    away = [m["after"]["kl"] for m in metrics]
    return (
        f"{stage}: held-out reward {interval(before, False)} -> {interval(after, False)}, "
        f"KL from the start {interval(away, False)} nats a token"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument(
        "--only", action="append", default=[], help="make this stage only, and print no table"
    )
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, default=list(METHODS), help="rows of the table"
    )
    parser.add_argument("-o", "--override", action="append", default=[])
    parser.add_argument("--runs", type=Path, default=Path("runs/alignment-seeds"))
    options = parser.parse_args()
    methods = [name for name in METHODS if name in options.methods]
    overrides = options.override
    if methods == list(METHODS):
        stages = ["start", *METHODS, *SMALL, "results"]
    else:  # the evaluation is of the last of them and compares the others
        stages = ["start", *methods, "results"]
        overrides = [
            f"results.model={methods[-1]}",
            f"results.compare=[{','.join(['start', *methods[:-1]])}]",
        ]
        overrides += options.override
    stages = options.only or stages
    folders = [run(seed, stages, overrides, options.runs) for seed in options.seeds]
    if options.only:
        return
    results = [json.loads((folder / "results" / "results.json").read_text()) for folder in folders]
    names = list(dict.fromkeys(name for result in results for name in result["models"]))
    print(table(results, sorted(names, key=["start", *METHODS, "taught", *SMALL].index), folders))
    asked = {
        metric: one["asked"] for name in names for metric, one in results[0]["models"].get(name, {}).items()
    }
    print("items:", asked)
    for stage in {"ppo", "grpo"}.intersection(methods):
        print(rewards(folders, stage))


if __name__ == "__main__":
    main()
