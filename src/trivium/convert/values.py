"""What fields of other projects mean here: how a value is written in a recipe, or why it cannot be."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, get_args

from trivium.recipe.network import Target


class NotCarried(Exception):
    """Why a value has no place in a recipe."""


def number(value: Any) -> float:
    if isinstance(value, bool):
        raise NotCarried(f"{value!r} is no number")
    try:
        found = float(value)
    except (TypeError, ValueError):
        raise NotCarried(f"{value!r} is no number") from None
    except OverflowError:
        raise NotCarried("too large a number") from None
    if not math.isfinite(found):
        raise NotCarried("not finite")
    return found


def count(value: Any) -> int:
    found = number(value)
    if found < 1:
        raise NotCarried("not set: a recipe says the length by `epochs`")
    return int(found)


def positive(value: Any) -> float:
    found = number(value)
    if found <= 0:
        raise NotCarried("zero or less: the default here stands")
    return found


def schedule(value: Any) -> str:
    known = {
        "constant_with_warmup": "constant",
        "cosine_with_min_lr": "cosine",
        "warmup_stable_decay": "wsd",
        "wsd": "wsd",
    }
    text = str(value).rsplit("get_", 1)[-1].split("_schedule")[0]
    found = known.get(text, text)
    if found not in ("cosine", "linear", "constant", "wsd"):
        raise NotCarried(
            f"there is no schedule `{value}`: cosine, linear, wsd and constant are; cosine is what runs"
        )
    return found


def optimizer(value: Any) -> str:
    text = str(value).lower()
    if "muon" in text:
        return "muon"
    if "adamw" in text or text.endswith(".adam"):
        return "adamw"
    raise NotCarried(f"there is no optimizer `{value}`: adamw is what runs")


def precision(value: Any) -> str:
    text = str(value).lower()
    if text in ("bf16", "bfloat16", "true"):
        return "bf16"
    if text in ("fp32", "float32"):
        return "float32"
    if text == "auto":
        return "auto"
    raise NotCarried("`precision: auto` takes bf16 where the machine computes it, else float32")


def float8(value: Any) -> str:
    return "float8" if value in (True, "true") else _off("float8 is off")


def targets(value: Any) -> list[str] | None:
    """Layers with adapters; None: all of a block's. Patterns and layers that are not here are left."""
    if value in ("all", "all-linear", True, ["all-linear"]):
        return None
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names:
        raise NotCarried("not set: all layers of a block get adapters")
    renamed = {"output_proj": "o_proj"}
    found = [renamed.get(last, last) for name in names if (last := str(name).rsplit(".", 1)[-1])]
    known = [name for name in dict.fromkeys(found) if name in get_args(Target)]
    if not known:
        raise NotCarried(
            "these are no layers of a plain block (or a pattern): all layers of a block get adapters"
        )
    return known


def yes(value: Any) -> bool:
    return True if value in (True, "true") else _off("off, as it is here by default")


def blocks(value: Any) -> str:
    return "blocks" if value in (True, "true", "offload") else _off("off, as it is here by default")


def switched(value: Any) -> str:
    return (
        "on"
        if value in (True, "true", "auto")
        else _off("off: `compile: auto` decides by the length of the run")
    )


def share(value: Any) -> float:
    found = number(value)
    if not 0 <= found < 1:
        raise NotCarried("a count, not a share: `heldout` is a share of the items, chosen by their hash")
    return found


def fraction(value: Any) -> float:
    found = number(value)
    if not 0 <= found <= 1:
        raise NotCarried("a share from 0 to 1 is asked for here")
    return found


def dpo_loss(value: Any) -> str:
    text = str(value).lower()
    if text in ("sigmoid", "ipo", "hinge"):
        return text
    raise NotCarried(f"there is no `loss: {value}`: sigmoid, ipo and hinge are")


def grpo_loss(value: Any) -> str:
    text = str(value).lower()
    if text in ("grpo", "dapo", "dr_grpo"):
        return text
    raise NotCarried(f"there is no `loss: {value}`: grpo, dapo and dr_grpo are")


def tracker(value: Any) -> list[str]:
    names = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    known = [str(name) for name in names if name in ("tensorboard", "wandb", "mlflow", "trackio")]
    return known or _off("curves are in events.jsonl, and in TensorBoard if it is installed")


def seed(value: Any) -> int:
    found = number(value)
    if found < 0:
        raise NotCarried("not set: a recipe's seed is 0")
    return int(found)


def _off(why: str) -> Any:
    raise NotCarried(why)


MEANINGS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "lr": ("train.lr", positive),
    "epochs": ("train.epochs", positive),
    "steps": ("train.steps", count),
    "micro_batch": ("train.micro_batch", count),
    "accumulation": ("train.batch", count),
    "context": ("train.context", count),
    "schedule": ("train.schedule", schedule),
    "lr_end": ("train.lr_end", fraction),
    "warmup": ("train.warmup", fraction),
    "warmup_steps": ("train.warmup", number),
    "weight_decay": ("train.weight_decay", number),
    "beta1": ("train.betas", number),
    "beta2": ("train.betas", number),
    "max_grad_norm": ("train.max_grad_norm", positive),
    "optimizer": ("train.optimizer", optimizer),
    "precision": ("train.precision", precision),
    "float8": ("train.precision", float8),
    "recompute": ("train.recompute", blocks),
    "compile": ("train.compile", switched),
    "log_every": ("train.log_every", count),
    "validate_every": ("train.validate_every", count),
    "checkpoint_steps": ("train.checkpoint_every", count),
    "keep_last": ("train.keep_last", count),
    "patience": ("train.patience", count),
    "seed": ("seed", seed),
    "size": ("data.size", count),
    "heldout": ("data.heldout", share),
    "rank": ("train.adapter.rank", count),
    "alpha": ("train.adapter.alpha", positive),
    "dropout": ("train.adapter.dropout", fraction),
    "targets": ("train.adapter.targets", targets),
    "all_targets": ("train.adapter.targets", yes),
    "mlp_targets": ("train.adapter.targets", yes),
    "head_target": ("train.adapter.targets", yes),
    "dora": ("train.adapter.dora", yes),
    "rslora": ("train.adapter.rslora", yes),
    "int8": ("train.adapter.quantize", yes),
    "int4": ("train.adapter.quantize: int8, the smallest there is", yes),
    "beta": ("train.beta", positive),
    "gamma": ("train.gamma", positive),
    "kl": ("train.kl", number),
    "clip": ("train.clip_epsilon", positive),
    "gae_lambda": ("train.gae_lambda", fraction),
    "dpo_loss": ("train.loss", dpo_loss),
    "grpo_loss": ("train.loss", grpo_loss),
    "label_smoothing": ("train.label_smoothing", number),
    "nll": ("train.nll", number),
    "desirable": ("train.desirable", positive),
    "undesirable": ("train.undesirable", positive),
    "group": ("train.group", count),
    "updates": ("train.updates", count),
    "max_new_tokens": ("train.max_new_tokens", count),
    "temperature": ("train.temperature", positive),
    "top_p": ("train.top_p", fraction),
    "share": ("train.share", fraction),
    "shard": ("train.parallel", count),
    "tensor": ("train.parallel", count),
    "cp": ("train.parallel", count),
    "replicas": ("train.parallel", count),
    "pipeline": ("train.parallel", count),
    "expert": ("train.parallel", count),
    "sharded": ("train.parallel: auto", lambda value: value),
    "tracker": ("track", tracker),
    "eos": ("start.eos", str),
}
"""Meaning -> where it stands in the recipe that is written, and how its value is written there."""


def column(value: Any) -> bool:
    """Whether a data set's path is a file rather than a name on the hub."""
    return bool(re.search(r"\.(jsonl?|ndjson|parquet|csv)(\.\w+)?$", str(value)))
