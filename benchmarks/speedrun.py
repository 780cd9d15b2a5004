"""The best model per minute: Trivium beside Hugging Face's Trainer and nanochat, same corpus, same parameters, same minutes.

    python benchmarks/speedrun.py --minutes 5 --seeds 1 2 3
    python benchmarks/speedrun.py --minutes 2 --seeds 1 --only ours trainer       a short one
    python benchmarks/speedrun.py --nanochat ~/nanochat ...      with nanochat: a checkout that you fetched, nothing of it is here

The corpus is the documentation and source of the standard library; what counts is bits per byte of held-out documents, each
read from its own beginning. A minute is processor time by threads, so that other work costs nobody (or `--clock wall`). Each
run is a process of its own: some steps to warm up and to find out what a step takes, which do not count, then as many as fit into
the minutes, so that every learning rate reaches its end in time. Trainer gets a Llama of the shape and a choice of learning rates
(its best is what counts), nanochat its model, optimizer and schedules at the width whose parameters are closest in number.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CONTEXT, WARM = 256, 6
SHAPES = {
    "2M": {"dim": 192, "layers": 5, "heads": 6},
    "6M": {"dim": 320, "layers": 6, "heads": 5},
    "20M": {"dim": 512, "layers": 8, "heads": 8},
}
NARROWER = {"2M": (128, 2), "6M": (256, 4), "20M": (448, 7)}
"""Our dim and heads: an embedding and an output matrix, and no more parameters than the shape has."""
OURS: dict[str, Any] = {
    "batch": 8, "optimizer": "muon", "lr": 1e-2, "embed_lr": 0.3, "muon_lr": 2e-2, "betas": (0.8, 0.95),
    "schedule": "linear", "lr_end": 0.0, "shape": {"qk_norm": True, "tie_embeddings": False},
}  # fmt: skip
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "ours": ("ours", {}),
    "ours, AdamW": ("ours", {"optimizer": "adamw", "muon_lr": None}),
    "ours, embeddings at lr": ("ours", {"embed_lr": None}),
    "ours, tied": ("ours", {"embed_lr": 0.05, "shape": {"tie_embeddings": True}}),
    "ours, as wide": ("ours", {"narrower": False}),
    "ours, no QK norm": ("ours", {"shape": {"qk_norm": False}}),
    "ours, betas 0.9, 0.95": ("ours", {"betas": (0.9, 0.95)}),
    "ours, cosine to a tenth": ("ours", {"schedule": "cosine", "lr_end": 0.1}),
    "ours, wsd": ("ours", {"schedule": "wsd"}),
    "ours, batch 4": ("ours", {"batch": 4}),
    "ours, batch 16": ("ours", {"batch": 16}),
    "ours, rates doubled": ("ours", {"lr": 2e-2, "muon_lr": 4e-2}),
    "ours, embed_lr 1": ("ours", {"embed_lr": 1.0}),
    "trainer": ("trainer", {"lr": 2e-3, "batch": 8}),
    "trainer, lr 1e-3": ("trainer", {"lr": 1e-3, "batch": 8}),
    "trainer, lr 4e-3": ("trainer", {"lr": 4e-3, "batch": 8}),
    "trainer, batch 32": ("trainer", {"lr": 4e-3, "batch": 32}),
    "nanochat": ("nanochat", {"batch": 8}),
    "nanochat, batch 32": ("nanochat", {"batch": 32}),
}
"""Row of the table -> (side, its settings beside the side's own). The vocabulary's size is `--vocab`: other tokens for all."""


def prepare(folder: Path, size: str, vocab: int) -> None:
    """The corpus as a data artifact, its tokenizer; rows of tokens for those who read no artifact, and the held-out documents."""
    import numpy as np

    from trivium import Recipe, run
    from trivium.corpus import records
    from trivium.text.chat import ChatTokenizer

    corpus = {"kind": "data", "sources": [{"kind": "python-docs"}], "size": size}
    stages = {
        "corpus": corpus,
        "vocab": {"kind": "tokenizer", "data": "corpus", "vocab_size": vocab},
    }
    recipe = Recipe.model_validate({"name": "speedrun", "seed": 7, "stages": stages})
    made = run(recipe, store=folder / "store", runs=folder / "runs")
    (folder / "data" / "heldout").mkdir(parents=True)  # none while it trains: no time is spent on looks at it
    (folder / "data" / "train").symlink_to(made["corpus"].path / "train")
    chat = ChatTokenizer.load(made["vocab"].path)
    chat.save(folder / "vocab", context=CONTEXT)

    def ids(split: str) -> list[list[int]]:
        texts = [record["text"] for record in records.read(made["corpus"].path / split, ("text",))]
        return [[*one.ids, chat.end_of_text] for one in chat.tokenizer.encode_batch(texts)]

    flat = np.concatenate([np.array(one, np.int32) for one in ids("train")])
    np.save(folder / "rows.npy", flat[: len(flat) // CONTEXT * CONTEXT].reshape(-1, CONTEXT))
    with (folder / "heldout.json").open("w") as file:
        cut = [one[:CONTEXT] for one in ids("heldout")[:400] if len(one) > 8]
        json.dump([[one, len(chat.tokenizer.decode(one[1:]).encode())] for one in cut], file)


def bits_per_byte(folder: Path, logits: Callable[[Any], Any]) -> float:
    """-log2 p of held-out documents by their bytes; the first token of each is given. `logits`: ids (1, T) -> (1, T, V)."""
    import torch

    nats = size = 0.0
    with torch.no_grad():
        for ids, count in json.loads((folder / "heldout.json").read_text()):
            row = torch.tensor([ids])
            found = logits(row)[0, :-1].float().log_softmax(-1)
            nats -= float(found.gather(1, row[0, 1:, None]).double().sum())
            size += count
    return nats / math.log(2) / size


# ---- the sides: `train(steps)` trains from the start and tells the clock before the first and after each step ----

Train = Callable[[int], tuple[list[float], Any]]


def ours(folder: Path, asked: dict[str, Any], clock: Callable[[], float], seed: int) -> Train:
    import torch

    from trivium.assembly import train_phase
    from trivium.batches.context import PhaseContext
    from trivium.model.config import ModelConfig
    from trivium.model.transformer import Transformer
    from trivium.phases import PHASES
    from trivium.recipe.training import ModelShape, PretrainStage
    from trivium.text.chat import ChatTokenizer

    chat = ChatTokenizer.load(folder / "vocab")
    size, narrower = asked.pop("size"), asked.pop("narrower", True)
    dim, heads = NARROWER[size]
    width = {"dim": dim, "heads": heads} if narrower else {}
    settings = {
        **OURS,
        **asked,
        "shape": {**SHAPES[size], **width, **OURS["shape"], **asked.get("shape", {})},
    }
    shape = ModelConfig.from_shape(ModelShape(context=CONTEXT, **settings.pop("shape")), chat.vocab_size)

    def train(steps: int) -> tuple[list[float], Any]:
        fields = {"kind": "pretrain", "data": "corpus", "tokenizer": "vocab", "steps": steps, "log_every": 1,
                  "checkpoint_every": "10h", "device": "cpu", "compile": "off", "samples": None}  # fmt: skip
        ticks: list[float] = []
        model = Transformer(shape)
        model.initialise(torch.Generator().manual_seed(seed))
        context = PhaseContext(
            config=PretrainStage.model_validate({**fields, **settings}), model=model, network=model, chat=chat,
            data=folder / "data", work=Path(tempfile.mkdtemp(dir=folder)), seed=seed,
            emit=lambda event: ticks.append(clock()) if event["event"] in ("phase", "step") else None,
        )  # fmt: skip
        train_phase(PHASES["pretrain"], context)
        return ticks, model

    return train


def _our_logits(model: Any) -> Callable[[Any], Any]:
    import torch

    def logits(row: Any) -> Any:
        places = torch.arange(row.shape[1])[None]
        return model({"tokens": row, "positions": places, "doc_id": torch.zeros_like(row)}, {"logits"}).logits

    return logits


def trainer(folder: Path, asked: dict[str, Any], clock: Callable[[], float], seed: int) -> Train:
    import numpy as np
    import torch
    import transformers

    rows = torch.from_numpy(np.load(folder / "rows.npy").astype(np.int64))
    vocab = json.loads((folder / "vocab.json").read_text())
    size = SHAPES[asked["size"]]
    hidden = math.ceil(8 / 3 * size["dim"] / 64) * 64

    class Rows(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return len(rows)

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            return {"input_ids": rows[index], "labels": rows[index]}

    def train(steps: int) -> tuple[list[float], Any]:
        ticks: list[float] = []

        class Clock(transformers.TrainerCallback):
            def on_train_begin(self, *_: Any, **__: Any) -> None:
                ticks.append(clock())

            def on_step_end(self, *_: Any, **__: Any) -> None:
                ticks.append(clock())

        transformers.set_seed(seed)
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(
            vocab_size=vocab, hidden_size=size["dim"], intermediate_size=hidden, num_hidden_layers=size["layers"],
            num_attention_heads=size["heads"], max_position_embeddings=CONTEXT, tie_word_embeddings=True,
        ))  # fmt: skip
        with tempfile.TemporaryDirectory(dir=folder) as out:
            options = transformers.TrainingArguments(
                out, max_steps=steps, per_device_train_batch_size=asked["batch"], learning_rate=asked["lr"], weight_decay=0.1,
                adam_beta2=0.95, lr_scheduler_type="cosine", warmup_steps=max(1, round(0.05 * steps)), use_cpu=True,
                optim="adamw_torch_fused", report_to=[], save_strategy="no", disable_tqdm=True, logging_steps=10**9, seed=seed,
            )  # fmt: skip
            transformers.Trainer(model, options, train_dataset=Rows(), callbacks=[Clock()]).train()
        return ticks, model

    return train


def nanochat(folder: Path, asked: dict[str, Any], clock: Callable[[], float], seed: int) -> Train:
    """Its model and optimizer from the user's checkout; learning rates rise, stay and fall as its base_train.py says."""
    import numpy as np
    import torch

    os.environ["NANOCHAT_DTYPE"] = "float32"
    sys.path.insert(0, asked["checkout"])
    from nanochat.gpt import GPT, GPTConfig  # type: ignore[import-not-found]

    rows = np.load(folder / "rows.npy")
    vocab = json.loads((folder / "vocab.json").read_text())
    budget, layers = asked["budget"], SHAPES[asked["size"]]["layers"]

    def shaped(width: int) -> Any:
        heads = max(1, width // 64)
        return GPTConfig(CONTEXT, vocab, layers, heads, heads, width, "L")

    def parameters(width: int) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in GPT(shaped(width)).parameters())

    width = min(range(64, 1025, 64), key=lambda w: abs(parameters(w) - budget))

    def train(steps: int) -> tuple[list[float], Any]:
        torch.manual_seed(seed)
        draw = np.random.default_rng(seed)
        with torch.device("meta"):
            model = GPT(shaped(width))
        model.to_empty(device="cpu")
        model.init_weights()
        optimizer = model.setup_optimizer()
        ticks = [clock()]
        rise, fall = min(40, max(1, steps // 20)), round(0.65 * steps)
        for step in range(steps):
            share = min(1.0, (step + 1) / rise, max(0.05, (steps - step) / max(1, fall)))
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * share
            picked = torch.from_numpy(rows[draw.integers(len(rows), size=asked["batch"])].astype(np.int64))
            model(picked[:, :-1].contiguous(), picked[:, 1:].contiguous()).backward()
            optimizer.step()
            model.zero_grad(set_to_none=True)
            ticks.append(clock())
        return ticks, model

    return train


SIDES: dict[str, tuple[Any, Callable[[Any], Callable[[Any], Any]]]] = {
    "ours": (ours, _our_logits),
    "trainer": (trainer, lambda model: lambda row: model(row).logits),
    "nanochat": (nanochat, lambda model: model),
}


def worker(asked: dict[str, Any]) -> dict[str, Any]:
    """One run: how long a step takes, then all that fit, then what is held out."""
    import torch

    torch.set_num_threads(asked.pop("threads"))
    wall, minutes, seed = asked.pop("clock") == "wall", asked.pop("minutes"), asked.pop("seed")
    clock = time.perf_counter if wall else lambda: time.process_time() / torch.get_num_threads()
    folder, side = Path(asked.pop("folder")), asked.pop("side")
    make, logits = SIDES[side]
    train = make(folder, asked, clock, seed)
    ticks, _ = train(WARM * 2)
    step = statistics.median(b - a for a, b in zip(ticks[WARM:], ticks[WARM + 1 :], strict=False))
    steps = max(1, int(60 * minutes / step))
    ticks, model = train(steps)
    model.eval()
    return {
        "bits_per_byte": bits_per_byte(folder, logits(model)),
        "minutes": (ticks[-1] - ticks[0]) / 60,
        "steps": steps,
        "parameters": sum(p.numel() for p in {id(p): p for p in model.parameters()}.values()),
        "load": os.getloadavg()[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="The best model per minute.")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--size", choices=list(SHAPES), default="2M")
    parser.add_argument("--vocab", type=int, default=2048)
    parser.add_argument("--corpus", default="10M", help="characters")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=["cpu", "wall"], default="cpu")
    parser.add_argument("--nanochat", help="the folder of a checkout of nanochat")
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), help="only these rows")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(worker(json.loads(options.worker))))
        return
    names = options.only or [name for name in VARIANTS if options.nanochat or VARIANTS[name][0] != "nanochat"]
    if not options.nanochat and any(VARIANTS[name][0] == "nanochat" for name in names):
        sys.exit("nanochat is not part of this project: fetch it and say where, --nanochat FOLDER")
    from trivium.model.config import ModelConfig
    from trivium.plan import flops
    from trivium.recipe.training import ModelShape

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(folder, options.corpus, options.vocab)
        (folder / "vocab.json").write_text(str(options.vocab))
        budget = flops.parameters(
            ModelConfig.from_shape(ModelShape(context=CONTEXT, **SHAPES[options.size]), options.vocab)
        )
        print(
            f"{budget / 1e6:.2f} M parameters, {options.minutes:g} minutes ({options.clock}), {options.threads} threads"
        )
        print(
            "| | bits per byte, each seed | mean | parameters | steps | minutes | load |\n|---|---|---|---|---|---|---|"
        )
        for name in names:
            side, settings = VARIANTS[name]
            found = []
            for seed in options.seeds:
                asked = {**settings, "side": side, "seed": seed, "size": options.size, "folder": str(folder),
                         "minutes": options.minutes, "threads": options.threads, "clock": options.clock}  # fmt: skip
                if side == "nanochat":
                    asked |= {"checkout": options.nanochat, "budget": budget}
                done = subprocess.run(
                    [sys.executable, __file__, "--worker", json.dumps(asked)], capture_output=True, text=True, check=False
                )  # fmt: skip
                if done.returncode:
                    sys.exit(f"{name} failed:\n{done.stderr[-3000:]}")
                found.append(json.loads(done.stdout.splitlines()[-1]))
            bits = [one["bits_per_byte"] for one in found]
            mean = {key: statistics.fmean(one[key] for one in found) for key in found[0]}
            print(
                f"| {name} | {' '.join(f'{b:.4f}' for b in bits)} | {mean['bits_per_byte']:.4f} | "
                f"{mean['parameters'] / 1e6:.2f} M | {mean['steps']:.0f} | {mean['minutes']:.2f} | {mean['load']:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
