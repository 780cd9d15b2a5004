"""A training run that takes a tenth of a second: every phase, through the table, on a transformer of dim 32."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from torch import Tensor

from trivium.assembly import train_phase
from trivium.batches.context import PhaseContext
from trivium.files import write_text
from trivium.model import hf, lora, scalar
from trivium.model.config import ModelConfig
from trivium.model.transformer import Transformer
from trivium.phases import PHASES
from trivium.recipe.models import TRAINING
from trivium.recipe.training import TrainingStage
from trivium.text import tokenizer
from trivium.text.chat import ChatTokenizer
from trivium.types import Event

KINDS = tuple(TRAINING)
ONLINE = tuple(kind for kind, stage in TRAINING.items() if stage.rows == "rollouts")
STEPS = 10

WHO = ("the cat", "a dog", "my friend", "the teacher")
WHAT = ("red ball", "old book", "long street", "answer 42")
FACTS = [(who, what, "in the garden" if len(who) > 6 else "at noon") for who in WHO for what in WHAT]


def on_ranks(worker: Callable[[int, int, Path], None], ranks: int, folder: Path) -> None:
    """`worker(rank, ranks, folder)` in a process for each rank: forks of a server that has loaded torch, which takes seconds."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(
        ["trivium.assembly", "trivium.phases", "trivium.train.parallel.apply", "torch.distributed.pipelining"]
    )
    mp.start_processes(worker, args=(ranks, folder), nprocs=ranks, start_method="forkserver")


def records(kind: str) -> list[dict[str, Any]]:
    """One record per fact, in the format that the phase reads; replies of different lengths."""
    made: list[dict[str, Any]] = []
    for number, (who, what, where) in enumerate(FACTS):
        question = [{"role": "user", "content": f"who sees the {what}?"}]
        answer = " and ".join([f"{who} {where}"] * (1 + number % 3))
        form = TRAINING[kind].formats[0]
        if form == "documents":
            made.append({"text": f"{who} sees the {what} {where}, says {answer}."})
        elif form == "conversations":
            made.append({"messages": [*question, {"role": "assistant", "content": answer}]})
        else:
            made.append({"prompt": question, "chosen": answer, "rejected": "no idea" * (number % 2)})
        made[-1]["source"] = ("tales", "facts")[number % 2]
    return made


def chat_tokenizer() -> ChatTokenizer:
    return ChatTokenizer(tokenizer.train([record["text"] for record in records("pretrain")] * 2, 300))


def data(kind: str, folder: Path) -> Path:
    for split, made in (("train", records(kind)[3:]), ("heldout", records(kind)[:3])):
        if not (
            path := folder / f"{split}.jsonl"
        ).exists():  # ranks come at the same time: whole or not at all
            write_text(path, "".join(json.dumps(record) + "\n" for record in made))
    return folder


def model(vocab_size: int, seed: int = 0) -> Transformer:
    shape = ModelConfig(
        vocab_size=vocab_size, dim=32, layers=2, heads=4, kv_heads=2, head_dim=8, hidden=64, context=32
    )
    made = Transformer(shape)
    made.initialise(torch.Generator().manual_seed(seed))
    return made


def others(kind: str, folder: Path, chat: ChatTokenizer) -> dict[str, Path]:
    """What the phase reads beside its data: a reward model with something to say, or a teacher."""
    if kind not in ("distill", *ONLINE):
        return {}
    made = folder / ("teacher" if kind == "distill" else "reward_model")
    if not made.exists():
        known = model(chat.vocab_size, seed=1)
        if kind == "distill":
            hf.save(known, made, eos=chat.end, pad=chat.pad)
        else:
            judge = scalar.Scalar(known)
            torch.nn.init.normal_(judge.score.weight, generator=torch.Generator().manual_seed(2))
            scalar.save(judge, made, eos=chat.end, pad=chat.pad)
    return {made.name: made}


def config(kind: str, **changes: Any) -> TrainingStage:
    """Everything that is fixed: float32, eager, on the CPU, a log line with every step."""
    fields: dict[str, Any] = dict(
        kind=kind, data="data", tokenizer="vocab", steps=STEPS, batch=4, lr=3e-3, warmup=0.2, precision="float32",
        device="cpu", compile="off", log_every=1, checkpoint_every="1h",
    )  # fmt: skip
    if kind in ONLINE:
        fields |= dict(reward_model="judge", max_new_tokens=8, minibatches=2, max_grad_norm=0.2)
    if kind == "grpo":
        fields |= dict(group=4, kl=0.1)
    if kind == "distill":
        del fields["tokenizer"]
        fields |= dict(teacher="teacher", on_policy=0.3, max_new_tokens=8)
    if kind == "unlearn":
        fields |= dict(forget="facts")
    if kind in ("pretrain", "sft"):
        fields["context"] = 32
    return TRAINING[kind].model_validate({**fields, **changes})


def phase(
    kind: str,
    folder: Path,
    *,
    emit: Callable[[Event], None] = lambda event: None,
    network: Transformer | None = None,
    **changes: Any,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Trains one phase (going on from what is in `folder`); returns its whole network's weights and the stage's metrics."""
    torch.set_num_threads(1)  # sums in the same order every time
    chat, stage = chat_tokenizer(), config(kind, **changes)
    start = network or model(chat.vocab_size)
    if network is None and stage.adapter is not None:
        lora.attach(start, stage.adapter, torch.Generator().manual_seed(7))
    everything = PHASES[kind].network(start, stage)
    context = PhaseContext(
        config=stage,
        model=start,
        network=everything,
        chat=chat,
        data=data(kind, folder / "data"),
        work=folder / "work",
        seed=5,
        emit=emit,
        others=others(kind, folder, chat),
        peak=lambda precision, device: 1e12,
    )
    metrics = train_phase(PHASES[kind], context)
    return {name: tensor.clone() for name, tensor in everything.state_dict().items()}, metrics


def saving(kind: str, folder: Path, **changes: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """`phase` with a checkpoint after every step, which costs more than the step."""
    return phase(kind, folder, **{"checkpoint_every": "1 step", **changes})


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    """Whether the weights are bit-identical."""
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
