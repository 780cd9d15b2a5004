"""The phases that hold more than one model, as small as those in `tiny`: reward, kto, ppo, grpo, distill."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny
import torch
from random_models import random_model
from torch import Tensor

from trivium.model import hf, lora, scalar
from trivium.phases import PHASES, train_phase
from trivium.recipe.alignment import DistillStage, GrpoStage, KtoStage, PpoStage, RewardStage
from trivium.recipe.training import TrainingStage
from trivium.types import Event

STEPS = 8
STAGES = {
    "reward": RewardStage,
    "kto": KtoStage,
    "ppo": PpoStage,
    "grpo": GrpoStage,
    "distill": DistillStage,
}
FIELDS: dict[str, dict[str, Any]] = {
    "ppo": dict(reward_model="judge", max_new_tokens=6, kl=0.1),
    "grpo": dict(reward_model="judge", max_new_tokens=6, kl=0.1, group=2),
    "distill": dict(teacher="teacher", context=32, on_policy=0.5, max_new_tokens=6),
}


def records(kind: str) -> list[dict[str, Any]]:
    """One record per fact, in the format that the phase reads."""
    made: list[dict[str, Any]] = []
    for number, (who, what, where) in enumerate(tiny.FACTS):
        question = [{"role": "user", "content": f"the {what}?"}]
        answer = f"{who} {where}" if number % 2 else who
        if kind == "distill":
            made.append({"messages": [*question, {"role": "assistant", "content": answer}]})
        elif kind == "kto":
            made.append({"prompt": question, "completion": answer, "label": number % 2})
        else:
            made.append({"prompt": question, "chosen": answer, "rejected": "no idea"})
    return made


def data(kind: str, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for split, made in (("train", records(kind)[4:]), ("heldout", records(kind)[:4])):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in made))
    return folder


def others(kind: str, folder: Path, vocab_size: int) -> dict[str, Path]:
    """The second model of a phase, written where a stage before it would leave it."""
    if kind not in FIELDS:
        return {}
    where = folder / "other"
    if not where.exists():
        second = random_model(vocab_size, context=32, seed=4)
        if kind == "distill":
            hf.save(second, where, eos=2, pad=1)
        else:
            judge = scalar.Scalar(second)
            torch.nn.init.normal_(judge.score.weight, generator=torch.Generator().manual_seed(1))
            scalar.save(judge, where, eos=2, pad=1)
    return {"teacher" if kind == "distill" else "reward_model": where}


def config(kind: str, **changes: Any) -> TrainingStage:
    fields: dict[str, Any] = dict(
        kind=kind, data="data", init="start", steps=STEPS, batch=4, lr=3e-3, warmup=0.2, precision="float32",
        device="cpu", compile="off", log_every=1, checkpoint_every="1 step",
    )  # fmt: skip
    return STAGES[kind].model_validate({**fields, **FIELDS.get(kind, {}), **changes})


def phase(
    kind: str, folder: Path, *, emit: Callable[[Event], None] = lambda event: None, **changes: Any
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Trains one phase, going on from what is in `folder`; returns all weights of its network and the metrics."""
    torch.set_num_threads(1)
    chat, stage = tiny.chat_tokenizer(), config(kind, **changes)
    model = tiny.model(chat.vocab_size)
    if stage.adapter is not None:
        lora.attach(model, stage.adapter, torch.Generator().manual_seed(7))
    network = PHASES[kind].network(model, stage)
    metrics = train_phase(
        stage,
        model=model,
        chat_tokenizer=chat,
        data=data(kind, folder / "data"),
        work=folder / "work",
        seed=5,
        emit=emit,
        peak=lambda precision, device: 1e12,
        others=others(kind, folder, chat.vocab_size),
        network=network,
    )
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}, metrics
