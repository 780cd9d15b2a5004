"""What a model's matrices are multiplied with, on data of the user's: what calibrated quantization goes by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from trivium.deploy.rows import TokenRow
from trivium.model.transformer import Transformer


def importance(model: Transformer, rows: Sequence[TokenRow]) -> dict[str, Tensor]:
    """Layer -> mean square of each of its inputs (K,) float32 over all tokens of `rows`; the importance matrix of llama.cpp."""
    sums: dict[str, Tensor] = {}
    count = sum(len(row.ids) for row in rows)

    def add(name: str, inputs: Tensor) -> None:
        squares = inputs.square().sum(0)
        sums[name] = sums[name] + squares if name in sums else squares

    run(model, rows, add)
    return {name: (total / count).float() for name, total in sums.items()}


def run(model: Transformer, rows: Sequence[TokenRow], see: Callable[[str, Tensor], None]) -> None:
    """Reads `rows` and shows `see` the inputs (T, K) float64 of each linear layer, with its name."""
    with _watched(model, see), torch.no_grad():
        for row in rows:
            model(
                {"tokens": torch.tensor([row.ids]), "positions": torch.arange(len(row.ids))[None]}, {"logits"}
            )


@contextmanager
def _watched(model: Transformer, see: Callable[[str, Tensor], None]) -> Iterator[None]:
    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda module, inputs: see(name, inputs[0].detach().flatten(0, -2).double())

    handles = [
        module.register_forward_pre_hook(hook(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name != "lm_head"
    ]
    if not model.config.tie_embeddings:  # whose weight is read without calling the layer
        handles.append(
            model.model.norm.register_forward_hook(
                lambda module, inputs, output: see("lm_head", output.detach().flatten(0, -2).double())
            )
        )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
