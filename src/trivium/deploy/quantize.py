"""Shrinks a checkpoint, in a layout that other engines read: int8 weights with one scale per output channel, or bfloat16."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from trivium.deploy.compare import check, compare
from trivium.deploy.rows import token_rows
from trivium.model import generation as generation_config
from trivium.model.hf import WEIGHTS, load, quantized, save
from trivium.model.transformer import Transformer
from trivium.recipe.deployment import QuantizeStage
from trivium.recipe.network import Generation
from trivium.text.chat import ChatTokenizer
from trivium.types import Emit


def quantize(
    source: Path, out: Path, scheme: Literal["int8", "bf16"] = "int8", generation: Generation | None = None
) -> dict[str, float]:
    """Writes the smaller checkpoint of `source` to `out`; returns sizes in bytes and the largest rounding error of a matrix.

    The error is relative to the largest weight of the same output channel: at most 1/254 for int8, plus the scale's own
    rounding, and 1/256 for bf16. `generation`: how replies are drawn; None: as those of `source`.
    ArtifactError for a family that has no int8 layout.
    """
    model = load(source)
    small = quantized(model) if scheme == "int8" else model
    chat = ChatTokenizer.load(source)
    dtype = torch.bfloat16 if scheme == "bf16" else None
    eos = chat.stops if chat.special else chat.end
    generation = generation or generation_config.read(source)
    save(small, out, eos=eos, pad=chat.pad, dtype=dtype, generation=generation)
    chat.save(out, context=model.config.context)
    before, after = (source / WEIGHTS).stat().st_size, (out / WEIGHTS).stat().st_size
    return {
        "bytes_before": before,
        "bytes_after": after,
        "ratio": before / after,
        "worst_relative_error": _worst(model, small, scheme),
    }


def run(config: QuantizeStage, source: Path, data: Path | None, out: Path, emit: Emit) -> dict[str, Any]:
    """The stage: writes the smaller checkpoint, loads it again and measures it. GateError where a bound of it does not hold."""
    sizes = quantize(source, out, config.scheme, config.generation)
    entry: dict[str, Any] = {"file": WEIGHTS, "bytes": int(sizes["bytes_after"])}
    if data is not None:
        full, chat = load(source), ChatTokenizer.load(source)
        heldout = token_rows(data / "heldout", chat, context=full.config.context, count=config.items)
        comparison = compare(full, load(out, trainable=True), chat, heldout)
        entry |= comparison.as_dict()
        check(config, {config.scheme: comparison})
    emit({"event": "quantized", "type": config.scheme, **entry})
    return {**sizes, "outputs": {config.scheme: entry}}


def _worst(model: Transformer, small: Transformer, scheme: str) -> float:
    state, worst = small.state_dict(), 0.0
    for name, weight in model.state_dict().items():
        scale = state.get(f"{name}_scale")
        if scheme == "int8" and scale is None:
            continue
        rounded: Tensor = weight.bfloat16().float() if scale is None else state[name].float() * scale.float()
        largest = weight.abs().amax(dim=-1, keepdim=True).clamp_min(1e-12)
        worst = max(worst, float(((rounded - weight).abs() / largest).max()))
    return worst
