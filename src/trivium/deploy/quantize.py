"""Shrinks a checkpoint, in a layout that other engines read: int8 weights with one scale per output channel, int4 with one
for each group of inputs, or bfloat16."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from trivium.deploy import int4
from trivium.deploy.compare import check, compare
from trivium.deploy.rows import TokenRow, token_rows
from trivium.model import generation as generation_config
from trivium.model.hf import WEIGHTS, Quantisation, load, quantized, read_config, save
from trivium.model.transformer import Transformer
from trivium.recipe.deployment import GROUP, QuantizeStage
from trivium.recipe.network import Generation
from trivium.text.chat import ChatTokenizer
from trivium.types import Emit


def quantize(
    source: Path,
    out: Path,
    scheme: Literal["int8", "int4", "bf16"] = "int8",
    generation: Generation | None = None,
    *,
    group: int = GROUP,
    rows: Sequence[TokenRow] | None = None,
) -> dict[str, float]:
    """Writes the smaller checkpoint of `source` to `out`; returns sizes in bytes and the largest rounding error of a matrix.

    The error is relative to the largest weight of the same output channel: at most 1/254 for int8, plus the scale's own
    rounding, and 1/256 for bf16. `generation`: how replies are drawn; None: as those of `source`. `group`, `rows`: of int4, as
    in `int4.quantized`. ArtifactError for a family that has no int8 or int4 layout.
    """
    model = load(source)
    before = (
        {name: tensor.clone() for name, tensor in model.state_dict().items()} if scheme == "int4" else None
    )
    small, quantisation = quantized(model) if scheme == "int8" else model, None
    if scheme == "int4":
        layers = int4.quantized(model, group, rows)
        packed = {
            name: tensor for layer, part in layers.items() for name, tensor in part.tensors(layer).items()
        }
        quantisation = Quantisation(int4.scheme(group), packed)
    chat = ChatTokenizer.load(source)
    dtype = torch.bfloat16 if scheme == "bf16" else None
    eos = chat.stops if chat.special else chat.end
    generation = generation or generation_config.read(source)
    save(small, out, eos=eos, pad=chat.pad, dtype=dtype, generation=generation, quantisation=quantisation)
    chat.save(out, context=model.config.context)
    size, smaller = (source / WEIGHTS).stat().st_size, (out / WEIGHTS).stat().st_size
    return {
        "bytes_before": size,
        "bytes_after": smaller,
        "ratio": size / smaller,
        "worst_relative_error": _worst(before or model.state_dict(), small, scheme),
    }


def run(config: QuantizeStage, source: Path, data: Path | None, out: Path, emit: Emit) -> dict[str, Any]:
    """The stage: writes the smaller checkpoint, loads it again and measures it. GateError where a bound of it does not hold."""
    rows, heldout, chat = None, None, ChatTokenizer.load(source)
    if data is not None:
        context = read_config(source).config.context
        heldout = token_rows(data / "heldout", chat, context=context, count=config.items)
        if config.calibrated:
            rows = token_rows(data / "train", chat, context=context, count=config.items)
    group = config.group_size or GROUP
    sizes = quantize(source, out, config.scheme, config.generation, group=group, rows=rows)
    full = load(source)
    parameters = sum(tensor.numel() for tensor in full.parameters())
    entry: dict[str, Any] = {
        "file": WEIGHTS,
        "bytes": int(sizes["bytes_after"]),
        "bits_per_weight": 8 * sizes["bytes_after"] / parameters,
        "calibrated": rows is not None,
    }
    if heldout is not None:
        comparison = compare(full, load(out, trainable=True), chat, heldout)
        entry |= comparison.as_dict()
        check(config, {config.scheme: comparison})
    emit({"event": "quantized", "type": config.scheme, **entry})
    return {**sizes, "outputs": {config.scheme: entry}}


def _worst(state: Mapping[str, Tensor], small: Transformer, scheme: str) -> float:
    """`state`: the full model's tensors; `small`: the model with what its integers stand for."""
    smaller, worst = small.state_dict(), 0.0
    for name, weight in state.items():
        scale = smaller.get(f"{name}_scale")
        if scheme == "int8":
            if scale is None:
                continue
            rounded: Tensor = smaller[name].float() * scale.float()
        elif scheme == "int4":
            rounded = smaller[name]
        else:
            rounded = weight.bfloat16().float()
        largest = weight.abs().amax(dim=-1, keepdim=True).clamp_min(1e-12)
        worst = max(worst, float(((rounded - weight).abs() / largest).max()))
    return worst
