"""Shrinks a checkpoint, in a layout that other engines read: int8 or float8 weights with one scale per output channel, int4 with
one for each group of inputs, or bfloat16."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from trivium.deploy import float8, int4
from trivium.deploy.rows import TokenRow
from trivium.deploy.table import Table
from trivium.model import generation as generation_config
from trivium.model.hf import WEIGHTS, Quantisation, load, quantized, save
from trivium.model.int8 import round_inputs
from trivium.model.transformer import Transformer
from trivium.recipe.deployment import GROUP, Int4Method, QuantizeStage, Scheme
from trivium.recipe.network import Generation
from trivium.text.chat import ChatTokenizer
from trivium.types import Emit


def quantize(
    source: Path,
    out: Path,
    scheme: Scheme = "int8",
    generation: Generation | None = None,
    *,
    group: int = GROUP,
    rows: Sequence[TokenRow] | None = None,
    method: Int4Method = "gptq",
) -> dict[str, float]:
    """Writes the smaller checkpoint of `source` to `out`; returns sizes in bytes and the largest rounding error of a matrix.

    The error is relative to the largest weight of the same output channel: at most 1/254 for int8, plus the scale's own
    rounding, 1/28 for float8, and 1/256 for bf16; with awq, to the scaled weights. `generation`: how replies are drawn; None: as
    those of `source`. `group`, `rows`, `method`: of int4, as in `int4.quantized`. ArtifactError for a family without that
    layout.
    """
    model, quantisation = load(source), None
    if scheme == "int4":
        layers, worst = int4.quantized(model, group, rows, method)
        packed = {
            name: tensor for layer, part in layers.items() for name, tensor in part.tensors(layer).items()
        }
        quantisation = Quantisation(int4.scheme(group), packed)
    elif scheme in ("float8", "float8-dynamic"):
        quantisation, worst = float8.quantized(model, inputs=scheme == "float8-dynamic")
    else:
        worst = _worst(model, small := quantized(model) if scheme.startswith("int8") else None)
        model = small or model
    if scheme == "int8-dynamic":
        round_inputs(model)
    chat = ChatTokenizer.load(source)
    dtype = torch.bfloat16 if scheme == "bf16" else None
    eos = chat.stops if chat.special else chat.end
    generation = generation or generation_config.read(source)
    save(model, out, eos=eos, pad=chat.pad, dtype=dtype, generation=generation, quantisation=quantisation)
    chat.save(out, context=model.config.context)
    size, smaller = (source / WEIGHTS).stat().st_size, (out / WEIGHTS).stat().st_size
    return {
        "bytes_before": size,
        "bytes_after": smaller,
        "ratio": size / smaller,
        "worst_relative_error": worst,
    }


def run(config: QuantizeStage, source: Path, data: Path | None, out: Path, emit: Emit) -> dict[str, Any]:
    """The stage: writes the smaller checkpoint, loads it again and measures it. GateError where a bound of it does not hold."""
    table, group = Table(config, source, data, emit), config.group_size or GROUP
    sizes = quantize(
        source, out, config.scheme, config.generation, group=group, rows=table.calibration, method=config.rounding,
    )  # fmt: skip
    dynamic = config.scheme == "int8-dynamic"  # as floats it would be another model
    small = load(out).float() if dynamic else load(out, trainable=True)
    with float8.rounded_inputs(small) if config.scheme == "float8-dynamic" else nullcontext():
        calibrated = table.calibration is not None
        table.add(config.scheme, out / WEIGHTS, small, "quantized", calibrated=calibrated)
    return {**sizes, **table.metrics()}


def _worst(model: Transformer, small: Transformer | None) -> float:
    """The largest error of a tensor in `small`, the model as int8; None: rounded to bf16."""
    state = model.state_dict()
    if small is None:
        return max(int4.off_by(weight, weight.bfloat16().float()) for weight in state.values())
    smaller = small.state_dict()
    pairs = ((name, smaller.get(f"{name}_scale")) for name in state)
    return max(
        int4.off_by(state[name], smaller[name].float() * scale.float())
        for name, scale in pairs if scale is not None
    )  # fmt: skip
