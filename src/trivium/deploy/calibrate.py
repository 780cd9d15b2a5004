"""What a model's matrices are multiplied with, on data of the user's: what calibrated quantization goes by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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
    """Reads `rows` and shows `see` the inputs (T, K) float64 of each linear layer, with its name; of the output matrix, too."""
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and n != "lm_head"}
    with watched(layers, see), torch.no_grad():
        for row in rows:
            states = model.hidden(torch.tensor([row.ids]), torch.arange(len(row.ids))[None], None)
            if not model.config.tie_embeddings:
                see("lm_head", states[0].double())


@contextmanager
def watched(layers: Mapping[str, nn.Module], see: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Shows `see` what each of the layers is given, (tokens, K) float64, while they are called."""

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda module, inputs: see(name, inputs[0].detach().flatten(0, -2).double())

    handles = [module.register_forward_pre_hook(hook(name)) for name, module in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
