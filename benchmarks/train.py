"""Training speed: Trivium's loop beside Hugging Face's Trainer, on the same model, data and optimizer, in one run.

    python benchmarks/train.py                  about ten minutes on two quiet cores
    python benchmarks/train.py --steps 3 --repeats 1 --tiny      a check that it works

Every measurement is a process of its own (so that memory and compile time are its own), and the two take turns, so that a noisy
machine hurts both alike. Both start from the same weights and read the same rows in the same order; the first losses are printed
to show it. Which settings are run follows the machine: float32, eager and compiled, everywhere; bf16 where the processor has
instructions for it. `--only` names others. Ours keeps documents within a row apart, which Trainer does not; both are counted with
the same FLOPs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BATCH, CONTEXT, VOCAB = 32, 256, 4096
LR, CLIP, DECAY, BETAS = 1e-3, 1.0, 0.1, (0.9, 0.95)
SKIP = 2  # steps left out of the median: compiling, warm caches

# name -> (who, precision, compiled, rows per forward pass)
SETTINGS: dict[str, tuple[str, str, bool, int]] = {
    "Trivium float32": ("ours", "float32", False, 32),
    "Trainer float32 (its default)": ("theirs", "float32", False, 32),
    "Trivium float32, compiled": ("ours", "float32", True, 32),
    "Trivium float32, compiled, 4 x 8 rows": ("ours", "float32", True, 8),
    "Trainer float32, compiled": ("theirs", "float32", True, 32),
    "Trainer float32, compiled, 4 x 8 rows": ("theirs", "float32", True, 8),
    "Trivium bf16": ("ours", "bf16", False, 32),
    "Trainer bf16": ("theirs", "bf16", False, 32),
    "Trivium bf16, compiled": ("ours", "bf16", True, 32),
    "Trivium bf16, compiled, 4 x 8 rows": ("ours", "bf16", True, 8),
    "Trainer bf16, compiled": ("theirs", "bf16", True, 32),
    "Trainer bf16, compiled, 4 x 8 rows": ("theirs", "bf16", True, 8),
}
DEFAULT = "Trainer float32 (its default)"


def fitting() -> list[str]:
    """The settings in which both sides are at their best here: bf16 where the processor multiplies it, compiled where there is a
    C++ compiler. Elsewhere bf16 is emulated, and compiling fails."""
    from trivium.train.machine import can_compile, native_bf16

    bf16, compiling = native_bf16("cpu"), can_compile("cpu")
    return [
        name
        for name, (_, precision, compiled, _) in SETTINGS.items()
        if (bf16 or precision == "float32") and (compiling or not compiled)
    ]


def shape(tiny: bool) -> dict[str, int]:
    return {"dim": 64, "layers": 2, "heads": 2} if tiny else {"dim": 256, "layers": 6, "heads": 4}


# ---- preparing: real text, one tokenizer, one set of weights -----------------------------------------------


def prepare(folder: Path, tiny: bool) -> None:
    """Documents of Python's own documentation as a data artifact, a tokenizer, and a checkpoint that both start from."""
    import torch

    from trivium import Recipe, run
    from trivium.model import hf
    from trivium.model.config import ModelConfig
    from trivium.model.transformer import Transformer
    from trivium.recipe.training import ModelShape
    from trivium.text.chat import ChatTokenizer

    corpus = {"kind": "data", "sources": [{"kind": "python-docs"}], "size": "6M"}
    vocab = {"kind": "tokenizer", "data": "corpus", "vocab_size": VOCAB}
    recipe = Recipe.model_validate(
        {"name": "benchmark", "seed": 7, "stages": {"corpus": corpus, "vocab": vocab}}
    )
    made = run(recipe, store=folder / "store", runs=folder / "runs")
    (folder / "data").mkdir()
    (folder / "data" / "train").symlink_to(made["corpus"].path / "train")
    (folder / "data" / "heldout").mkdir()  # nothing held out: no validation in between
    chat = ChatTokenizer.load(made["vocab"].path)
    model = Transformer(ModelConfig.from_shape(ModelShape(context=CONTEXT, **shape(tiny)), VOCAB))
    model.initialise(torch.Generator().manual_seed(7))
    hf.save(model, folder / "start", eos=chat.end, pad=chat.pad)
    chat.save(folder / "start", context=CONTEXT)


# ---- the two sides, each in a process of its own -----------------------------------------------------------


def ours(folder: Path, precision: str, compiled: bool, micro: int, steps: int) -> tuple[list[float], float]:
    """(the clock before the first and after every step, the first loss)."""
    from trivium.assembly import train_phase
    from trivium.batches.context import PhaseContext
    from trivium.model import hf
    from trivium.phases import PHASES
    from trivium.recipe.training import PretrainStage
    from trivium.text.chat import ChatTokenizer

    config = PretrainStage.model_validate(
        {
            "kind": "pretrain", "data": "corpus", "tokenizer": "vocab", "steps": steps, "batch": BATCH,
            "micro_batch": micro, "lr": LR, "max_grad_norm": CLIP, "weight_decay": DECAY, "betas": BETAS, "warmup": 0.05,
            "precision": precision, "compile": "on" if compiled else "off", "log_every": 1,
            "checkpoint_every": "10h", "device": "cpu",
        }
    )  # fmt: skip
    clock, losses = [], []

    def listen(event: dict[str, Any]) -> None:
        if event["event"] in ("phase", "step"):
            clock.append(time.perf_counter())
        if event["event"] == "step":
            losses.append(event["loss"])

    model = hf.load(folder / "start")
    context = PhaseContext(
        config=config,
        model=model,
        network=model,
        chat=ChatTokenizer.load(folder / "start"),
        data=folder / "data",
        work=folder / "work",
        seed=7,
        emit=listen,
    )
    train_phase(PHASES["pretrain"], context)
    return clock, losses[0]


def theirs(folder: Path, precision: str, compiled: bool, micro: int, steps: int) -> tuple[list[float], float]:
    """The same with Trainer."""
    import torch
    import transformers

    from trivium.batches.packed import Packed
    from trivium.batches.rows import BatchSharding, Shuffled
    from trivium.corpus.shards import open_shards

    packed = Packed(
        open_shards(folder / "work" / "train")[0], CONTEXT
    )  # the very rows of `ours`, in the same order
    order = Shuffled(packed.count, packed.item, BatchSharding(7, BATCH, BATCH))
    rows = [row for step in range(steps) for row in order.batch(step)[0]["tokens"]]

    class Rows(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(rows)

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            return {"input_ids": rows[index], "labels": rows[index]}

    class InOrder(transformers.Trainer):
        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(rows)

    clock: list[float] = []

    class Clock(transformers.TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            clock.append(time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.append(time.perf_counter())

    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "start", dtype=torch.float32)
    with tempfile.TemporaryDirectory() as out:
        options = transformers.TrainingArguments(
            out, max_steps=steps, per_device_train_batch_size=micro, gradient_accumulation_steps=BATCH // micro,
            learning_rate=LR, weight_decay=DECAY, adam_beta1=BETAS[0], adam_beta2=BETAS[1], max_grad_norm=CLIP,
            lr_scheduler_type="cosine", warmup_steps=max(1, round(0.05 * steps)), optim="adamw_torch_fused",
            bf16=precision == "bf16", torch_compile=compiled, use_cpu=True, report_to=[], save_strategy="no",
            logging_steps=1, disable_tqdm=True, seed=7,
        )  # fmt: skip
        trainer = InOrder(model, options, train_dataset=Rows(), callbacks=[Clock()])
        trainer.train()
    return clock, next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)


def worker(folder: Path, name: str, steps: int) -> dict[str, Any]:
    """One measurement, and the matmul peak found in the same process just before it."""
    from trivium.plan.machine import rates

    who, precision, compiled, micro = SETTINGS[name]
    peak = {kind: rates(kind, "cpu").peak for kind in ("float32", "bf16")}
    clock, loss = (ours if who == "ours" else theirs)(folder, precision, compiled, micro, steps)
    durations = [after - before for before, after in itertools.pairwise(clock)]
    steady = durations[min(SKIP, steps - 1) :]
    return {
        "steps": steady,
        "warm_up": max(0.0, durations[0] - statistics.median(steady)),
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "peak": peak,
        "loss": loss,
    }


# ---- taking turns, and the table ---------------------------------------------------------------------------


def measure(folder: Path, names: list[str], steps: int, repeats: int) -> dict[str, list[dict[str, Any]]]:
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for turn in range(repeats):
        for name in names:
            cache = folder / f"inductor-{names.index(name)}"  # cold in the first turn, warm in the next
            environment = {
                **os.environ,
                "TORCHINDUCTOR_CACHE_DIR": str(cache),
                "TRANSFORMERS_VERBOSITY": "error",
            }
            command = [
                sys.executable,
                __file__,
                "--worker",
                name,
                "--folder",
                str(folder),
                "--steps",
                str(steps),
            ]
            done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
            if done.returncode:
                sys.exit(f"{name} failed:\n{done.stderr[-3000:]}")
            found = json.loads(done.stdout.splitlines()[-1])
            results[name].append(found)
            rate = BATCH * CONTEXT / statistics.median(found["steps"])
            print(
                f"  turn {turn + 1}: {name}: {rate:,.0f} tokens/s, load {os.getloadavg()[0]:.2f}", flush=True
            )
    return results


def table(results: dict[str, list[dict[str, Any]]], tiny: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from trivium.model.config import ModelConfig
    from trivium.plan import flops
    from trivium.recipe.training import ModelShape

    config = ModelConfig.from_shape(ModelShape(context=CONTEXT, **shape(tiny)), VOCAB)
    peak = {
        kind: max(run["peak"][kind] for runs in results.values() for run in runs)
        for kind in ("float32", "bf16")
    }
    rate = {
        name: BATCH * CONTEXT / statistics.median([second for run in runs for second in run["steps"]])
        for name, runs in results.items()
    }
    best = max(value for name, value in rate.items() if name.startswith("Trainer"))
    shown = Table(
        "", title=f"{flops.parameters(config) / 1e6:.1f} M parameters, {BATCH} x {CONTEXT} tokens a step"
    )
    headings = (
        "tokens/s",
        "to Trainer's best",
        "to its default",
        "of the peak",
        "warm-up",
        "peak memory",
        "first loss",
    )
    for heading in headings:
        shown.add_column(heading, justify="right")
    for name, runs in results.items():
        used = flops.utilisation(rate[name], flops.training(config, CONTEXT), peak[SETTINGS[name][1]])
        shown.add_row(
            name,
            f"{rate[name]:,.0f}",
            f"{rate[name] / best:.2f} x",
            f"{rate[name] / rate[DEFAULT]:.2f} x",
            f"{used:.0%}",
            f"{runs[0]['warm_up']:.0f} s",
            f"{max(run['memory'] for run in runs) / 1e9:.2f} GB",
            f"{runs[0]['loss']:.3f}",
        )
    console = Console(width=150, highlight=False)
    console.print(shown)
    console.print(
        f"matmul peak of this run: {peak['float32'] / 1e9:,.0f} GFLOP/s float32, {peak['bf16'] / 1e9:,.0f} bf16; "
        f"{flops.training(config, CONTEXT) / 1e6:.1f} MFLOP a token; load {', '.join(f'{x:.2f}' for x in os.getloadavg())}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Trivium's loop beside Hugging Face's Trainer.")
    parser.add_argument("--steps", type=int, default=8, help="optimizer steps of each measurement")
    parser.add_argument("--repeats", type=int, default=2, help="turns that all settings take")
    parser.add_argument(
        "--tiny", action="store_true", help="a model of 0.4 M parameters, to try the benchmark itself"
    )
    parser.add_argument("--only", nargs="*", choices=list(SETTINGS), help="only these settings")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(worker(options.folder, options.worker, options.steps)))
        return
    chosen = {DEFAULT, *options.only} if options.only else set(fitting())
    names = [name for name in SETTINGS if name in chosen]
    if SETTINGS[names[0]][0] != "ours":  # the rows that both read are cut by ours
        names.sort(key=lambda name: SETTINGS[name][0] != "ours")
    print(f"settings: {'; '.join(names)}")
    print(f"load before: {os.getloadavg()[0]:.2f}")
    with tempfile.TemporaryDirectory() as temporary:
        prepare(Path(temporary), options.tiny)
        table(measure(Path(temporary), names, options.steps, options.repeats), options.tiny)


if __name__ == "__main__":
    main()
