"""Weights in the layout of the CPU's kernels while a model writes: a step of a few rows is spent on little but matrix products.

Plain `F.linear` brings the weights into that layout in every call, and under autocast it converts them from float32 as well;
at 16 rows this is most of the time (docs/benchmarks.md, "Generation").
"""

from __future__ import annotations

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


@contextmanager
def packed(model: Transformer, int8: bool = False) -> Iterator[Linear]:
    """Inside, the linear layers of `model` use packed copies of their weights; gives the head: (B, D) -> logits (B, V).

    The copies are in the precision of the pass (bf16 under autocast) and are gone afterwards, so that the next call sees what
    training has changed. Elsewhere than on a CPU, where weights are spread over ranks, and while another thread has the model
    packed, nothing is. `int8`: the head's matrix is rounded to int8.
    """
    head, cap = model.output_weight, model.config.logit_softcap
    if int8:
        integers, scale = quantize(head.detach())
        head = (integers.float() * scale.float()).to(head.dtype)
    kinds = (
        (nn.Linear, LoraLinear, Int8Linear) if _precision(head) == torch.float32 else (nn.Linear, LoraLinear)
    )
    layers = [m for m in model.model.modules() if type(m) in kinds and not getattr(m, "rounds_inputs", False)]
    with _ONE:
        mine = _can_pack(head) and not any("forward" in vars(layer) for layer in layers)
        for layer in layers if mine else ():
            vars(layer)["forward"] = _made(layer)  # before the class's own
    if not mine:
        yield lambda hidden: capped(F.linear(hidden, head), cap)
        return
    try:
        product = _pack(head, None)
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


def _pack(weight: Tensor, bias: Tensor | None) -> Linear:
    kind = _precision(weight)
    ready = torch.ops.mkldnn._reorder_linear_weight(weight.detach().to(kind), None)
    added = None if bias is None else bias.detach().to(kind)

    def linear(x: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x.to(kind), ready, added, "none", [], "")
        return out

    return linear


def _made(layer: nn.Module) -> Linear:
    if isinstance(layer, LoraLinear):
        return _adapted(layer)
    if isinstance(layer, Int8Linear):
        return _pack(layer.dequantised(), layer.bias)
    assert isinstance(layer, nn.Linear)
    return _pack(layer.weight, layer.bias)


def _adapted(layer: LoraLinear) -> Linear:
    frozen = _pack(layer.weight, layer.bias)
    return lambda x: layer.adapted(x, frozen(x))
