"""The stage that trains, from what was understood of a configuration."""

from __future__ import annotations

from typing import Any

from trivium.convert.draft import Draft
from trivium.convert.values import MEANINGS
from trivium.recipe.models import STAGES

PLAIN = (
    *(
        "lr",
        "schedule",
        "lr_end",
        "warmup",
        "context",
        "weight_decay",
        "max_grad_norm",
        "optimizer",
        "precision",
        "recompute",
    ),
    *(
        "compile",
        "log_every",
        "validate_every",
        "keep_last",
        "patience",
        "beta",
        "gamma",
        "kl",
        "label_smoothing",
        "nll",
    ),
    *(
        "desirable",
        "undesirable",
        "group",
        "updates",
        "max_new_tokens",
        "temperature",
        "top_p",
        "share",
        "gae_lambda",
    ),
)
"""Meanings that are fields of the stage by the same name."""


AXES = {
    "shard": "shard",
    "tensor": "tensor",
    "cp": "context",
    "replicas": "data",
    "pipeline": "pipeline",
    "expert": "expert",
}


def train_stage(draft: Draft, kind: str) -> dict[str, Any]:
    stage: dict[str, Any] = {"kind": kind, "init": "start", "data": "data"}
    if kind == "distill":
        stage["teacher"] = "teacher"
    if kind == "pretrain":
        stage["tokenizer"] = "start"
    if kind == "grpo" and "beta" in draft.values and "kl" not in draft.values:
        draft.values["kl"] = draft.values.pop("beta")
    _fitting(draft, kind)
    given = {meaning: value for meaning, (_, value) in draft.values.items()}
    stage |= _batch(given, kind)
    stage |= {"steps": given["steps"]} if "steps" in given else {"epochs": given.get("epochs", 1.0)}
    if {"beta1", "beta2"} & set(given):
        stage["betas"] = [given.get("beta1", 0.9), given.get("beta2", 0.999)]
    if "warmup_steps" in given:
        warm = given["warmup_steps"]
        stage["warmup"] = round(warm / given["steps"], 6) if warm else 0.0
    if "checkpoint_steps" in given:
        stage["checkpoint_every"] = f"{given['checkpoint_steps']} steps"
    parallel = {AXES[meaning]: given[meaning] for meaning in AXES if given.get(meaning, 1) > 1}
    if parallel or "sharded" in given:
        stage["parallel"] = parallel or "auto"
    if "float8" in given:
        stage["precision"] = "float8"
    stage |= {meaning: given[meaning] for meaning in PLAIN if meaning in given and meaning not in stage}
    renamed = {"clip": "clip_epsilon", "dpo_loss": "loss", "grpo_loss": "loss"}
    stage |= {key: given[meaning] for meaning, key in renamed.items() if meaning in given}
    if kind == "pretrain" and "context" in stage:
        stage["model"] = {"context": stage["context"]}
    adapter = _adapter(draft)
    return stage | ({"adapter": adapter} if adapter is not None else {})


def _batch(given: dict[str, Any], kind: str) -> dict[str, int]:
    """Rows a step, over all ranks that see rows of their own."""
    micro, more = given.get("micro_batch", 1), given.get("accumulation", 1)
    ranks = given.get("shard", 1) * given.get("replicas", 1)
    batch = micro * more * ranks
    if kind == "grpo" and batch % given.get("group", 8):
        batch *= given.get("group", 8)
    return {"batch": batch, "micro_batch": micro * ranks} if more > 1 else {"batch": batch}


def _fitting(draft: Draft, kind: str) -> None:
    """Drops what the stage has no field for, or what would say a thing twice."""
    known = STAGES[kind].model_fields
    for meaning in list(draft.values):
        to = MEANINGS[meaning][0]
        key = to.removeprefix("train.").split(".")[0].split(":")[0]
        if to.startswith("train.") and key not in known:
            draft.drop(meaning, f"a `{kind}` stage has no `{key}`")
    if kind != "dpo" and "dpo_loss" in draft.values:
        draft.drop("dpo_loss", "`loss` is said in dpo only")
    if kind != "grpo" and "grpo_loss" in draft.values:
        draft.drop("grpo_loss", "`loss: grpo` is said in grpo only")
    if draft.values.get("dpo_loss", ("", "sigmoid"))[1] != "sigmoid" and "label_smoothing" in draft.values:
        draft.drop("label_smoothing", "labels are smoothed with `loss: sigmoid` only")
    if "steps" in draft.values and "epochs" in draft.values:
        draft.drop("epochs", "the steps are said, too, and win")
    steps = draft.values.get("steps", ("", 0))[1]
    if "warmup_steps" in draft.values and (
        "warmup" in draft.values or not 0 <= draft.values["warmup_steps"][1] <= steps
    ):
        draft.drop(
            "warmup_steps",
            "`warmup` is a share of the steps, which only the data says: 0.05 unless you write another",
        )
    if "lr_end" in draft.values and draft.values.get("schedule", ("", "cosine"))[1] == "constant":
        draft.drop("lr_end", "a constant rate has no end")
    for axis, field_ in (("cp", "context"), ("pipeline", "pipeline")):
        if kind not in ("sft", "pretrain") and axis in draft.values and draft.values[axis][1] > 1:
            draft.drop(axis, f"`parallel.{field_}` is for sft and pretrain")


def _adapter(draft: Draft) -> dict[str, Any] | None:
    wanted = bool(draft.part("lora"))
    for path, value in draft.part("adapter"):
        if value in ("lora", "qlora", True):
            wanted = True
            draft.tell(path, value, "train.adapter")
        else:
            plain = value in ("full", False)
            draft.tell(
                path,
                value,
                why="all weights are trained, as here by default"
                if plain
                else f"there is no adapter `{value}`",
            )
    for path, value in draft.part("component"):
        low = ".lora_" in str(value) or ".qlora_" in str(value)
        wanted = wanted or low
        draft.tell(
            path,
            value,
            "train.adapter" if low else "",
            "" if low else "the shape is read from the checkpoint itself",
        )
    own = [meaning for meaning in draft.values if ".adapter." in MEANINGS[meaning][0]]
    if not wanted:
        for meaning in own:
            draft.drop(meaning, "no adapter is trained")
        return None
    given = {meaning: draft.values[meaning][1] for meaning in own}
    made: dict[str, Any] = {
        key: given[key] for key in ("rank", "alpha", "dropout", "dora", "rslora") if key in given
    }
    layers = given.get("targets")
    if layers and "all_targets" not in given:
        extra = ["gate_proj", "up_proj", "down_proj"] if "mlp_targets" in given else []
        extra += ["lm_head"] if "head_target" in given else []
        made["targets"] = [*layers, *(layer for layer in extra if layer not in layers)]
    if (
        "int8" in given
        or "int4" in given
        or any(".qlora_" in str(value) for _, value in draft.part("component"))
    ):
        made["quantize"] = "int8"
    return made
