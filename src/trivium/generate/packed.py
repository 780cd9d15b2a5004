"""Weights in the layout of the CPU's kernels while a model writes: a step of a few rows is spent on little but matrix products.

Plain `F.linear` brings the weights into that layout in every call, and under autocast it converts them from float32 as well;
at 16 rows this is most of the time (docs/benchmarks.md, "Generation"). Matrices of int8 are read as they are: a quarter of the
bytes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trivium.model.heads import capped
from trivium.model.int8 import Int8Linear, quantize
from trivium.model.lora import LoraLinear
from trivium.model.transformer import Transformer

Linear = Callable[[Tensor], Tensor]
_ONE = Lock()
HALF, PART = 63, 126
"""An input has two parts, integers from -HALF to HALF, the second one PART times finer."""


@contextmanager
def packed(model: Transformer, int8: bool = False) -> Iterator[Linear]:
    """Inside, the linear layers of `model` use packed copies of their weights; gives the head: (B, D) -> logits (B, V).

    The copies are in the precision of the pass (bf16 under autocast) and are gone afterwards, so that the next call sees what
    training has changed. Elsewhere than on a CPU, where weights are spread over ranks, and while another thread has the model
    packed, nothing is. `int8`: every matrix is rounded to int8, that of the head, too.
    """
    head, cap = model.output_weight, model.config.logit_softcap
    whole = _precision(head) == torch.float32 and _has_integers()
    kinds = (
        (nn.Linear, LoraLinear, Int8Linear) if _precision(head) == torch.float32 else (nn.Linear, LoraLinear)
    )
    layers = [m for m in model.model.modules() if type(m) in kinds]
    with _ONE:
        mine = _can_pack(head) and not any("forward" in vars(layer) for layer in layers)
        for layer in layers if mine else ():
            vars(layer)["forward"] = _made(layer, int8 and whole)  # before the class's own
    if not mine:
        yield lambda hidden: capped(F.linear(hidden, head), cap)
        return
    try:
        product = _integers(*quantize(head.detach()), None) if int8 and whole else _pack(head, None)
        yield lambda hidden: capped(product(hidden), cap)
    finally:
        for layer in layers:
            del vars(layer)["forward"]


def _precision(weight: Tensor) -> torch.dtype:
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else weight.dtype


def _can_pack(weight: Tensor) -> bool:
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if weight.device.type != "cpu" or hasattr(weight, "to_local") or not available:
        return False
    kind = _precision(weight)
    return kind == torch.float32 or (
        kind == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


def _has_integers() -> bool:
    """Whether torch has the products; what makes their tensors is to go some day, and then floats are multiplied."""
    made = hasattr(torch, "_make_per_channel_quantized_tensor")
    return made and "fbgemm" in torch.backends.quantized.supported_engines


def _pack(weight: Tensor, bias: Tensor | None) -> Linear:
    kind = _precision(weight)
    ready = torch.ops.mkldnn._reorder_linear_weight(weight.detach().to(kind), None)
    added = None if bias is None else bias.detach().to(kind)

    def linear(x: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x.to(kind), ready, added, "none", [], "")
        return out

    return linear


def _made(layer: nn.Module, int8: bool) -> Linear:
    if isinstance(layer, Int8Linear):
        if not _has_integers():
            return _pack(layer.dequantised(), layer.bias)
        return _integers(layer.weight, layer.weight_scale, layer.bias)
    if isinstance(layer, LoraLinear):
        return _adapted(layer)
    assert isinstance(layer, nn.Linear)
    if int8:
        return _integers(*quantize(layer.weight.detach()), layer.bias)
    return _pack(layer.weight, layer.bias)


def _integers(weight: Tensor, scale: Tensor, bias: Tensor | None) -> Linear:
    """y = x (weight scale)' + bias from int8 weights (N, K) and their scales (N, 1), in products of integers.

    Each row of x is size / HALF times (high + low / PART) with integers of 7 bits, which the kernel multiplies without overflow;
    an input is off by at most 2^-14 of its row's largest. A last row from -63.5 to 63.5 makes the step that the kernel chooses
    for all rows exactly 1: what a row gives does not depend on its company.
    """
    with _engine("fbgemm"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*quantized tensor creation")  # the kernel takes no other
        zeros = torch.zeros(len(weight), dtype=torch.int64)
        channels = scale.detach().flatten().double()
        quantised = torch._make_per_channel_quantized_tensor(weight.detach(), channels, zeros, 0)
        ready = torch.ops.quantized.linear_prepack(quantised, None)
    edge = torch.zeros(1, weight.shape[1])
    edge[0, 0], edge[0, -1] = -HALF - 0.5, HALF + 0.5
    added = None if bias is None else bias.detach().float()

    def linear(x: Tensor) -> Tensor:
        rows = x.detach().reshape(-1, x.shape[-1]).float()
        size = rows.abs().amax(1, keepdim=True).clamp_min(1e-30)
        steps = (rows * (HALF / size)).nan_to_num(
            0.0, 0.0, 0.0
        )  # `size` tells of what is no number, in its own row
        high = steps.round()
        both = torch.ops.quantized.linear_dynamic(torch.cat((high, (steps - high) * PART, edge)), ready, True)
        first, second, _ = both.split((len(rows), len(rows), 1))
        out: Tensor = first.add(second, alpha=1 / PART).mul_(size / HALF).view(*x.shape[:-1], len(weight))
        return out if added is None else out + added

    return linear


@contextmanager
def _engine(name: str) -> Iterator[None]:
    """torch packs for the engine that is set, for everybody."""
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = name
    try:
        yield
    finally:
        torch.backends.quantized.engine = before


def _adapted(layer: LoraLinear) -> Linear:
    frozen = _pack(layer.weight, layer.bias)
    return lambda x: layer.adapted(x, frozen(x))
