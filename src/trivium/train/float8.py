"""Training with matrix products in float8 (E4M3 forward, E5M2 for gradients), by torchao; all else is as under bf16.

Each tensor is scaled by its largest element right before the product (Micikevicius et al. 2022, *FP8 Formats for Deep Learning*;
torchao's `tensorwise` recipe). Weights, gradients and the optimizer stay float32.
"""

from __future__ import annotations

import torch
from torch import nn

from trivium.errors import RecipeError, TriviumError
from trivium.model.transformer import Transformer

ALIGNED = 16
"""Every side of a product must be a multiple of this."""
FIX = "write `precision: bf16`"


def check(device: str) -> None:
    """RecipeError unless `device` is a GPU that multiplies float8 matrices: compute capability 8.9 or more."""
    if device != "cuda" or not torch.cuda.is_available():
        raise RecipeError(
            f"`precision: float8` needs a GPU of the Hopper generation or later, and this stage runs on {device}",
            fix=FIX,
        )
    if torch.cuda.get_device_capability() < (8, 9):
        raise RecipeError(
            f"`precision: float8` needs a GPU of the Hopper generation or later; {torch.cuda.get_device_name()} cannot "
            "multiply float8 matrices",
            fix=FIX,
        )


def check_rows(tokens: int) -> None:
    """RecipeError where a forward pass of so many tokens cannot be multiplied on the way back."""
    if tokens % ALIGNED:
        raise RecipeError(
            f"float8 multiplies in steps of {ALIGNED}, and a forward pass has {tokens} tokens",
            fix=f"make `micro_batch` x `context` a multiple of {ALIGNED}, or {FIX}",
        )


def convert(model: Transformer, *, emulate: bool = False) -> int:
    """Lets the matrices of the blocks multiply in float8, in place; returns how many. Names and parameters stay.

    Left alone: embeddings and the output matrix, the router and the experts of a mixture (whose row counts are data), and
    sides that are no multiple of 16. `emulate` computes the same rounding in other numbers, on any device.
    """
    try:
        from torchao.float8 import Float8LinearConfig, convert_to_float8_training
    except ModuleNotFoundError:
        raise TriviumError(
            "`precision: float8` needs torchao, which is not installed",
            fix='pip install "trivium[float8]", or write `precision: bf16`',
        ) from None
    found: list[str] = []

    def chosen(layer: nn.Module, name: str) -> bool:
        sides = (layer.in_features, layer.out_features) if type(layer) is nn.Linear else (1,)
        fits = all(side % ALIGNED == 0 for side in sides) and ".experts." not in f".{name}"
        found.extend([name] * fits)
        return fits

    config = Float8LinearConfig(emulate=emulate)
    convert_to_float8_training(model.model.layers, module_filter_fn=chosen, config=config)
    if not found:
        raise RecipeError(
            f"no matrix of the model has sides that are multiples of {ALIGNED}, as float8 needs them", fix=FIX
        )
    return len(found)
