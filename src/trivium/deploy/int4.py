"""Matrices as integers of 4 bits with a scale for each group of inputs: rounded to the nearest, or one column after the other so
that later columns make up for the rounding of earlier ones (GPTQ, Frantar et al. 2023). Channels may be scaled before (`awq`).

    w_nk = s_ng q_nk,   q in -8 .. 7,   s_ng = max |w_ng| / 7.5 (GPTQ: or less) rounded to bf16, g = k // group
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trivium.deploy import awq
from trivium.deploy.calibrate import watched
from trivium.deploy.rows import TokenRow
from trivium.errors import ArtifactError
from trivium.model.config import ModelConfig
from trivium.model.families import family
from trivium.model.hf import compressed_tensors
from trivium.model.transformer import Block, Transformer
from trivium.recipe.deployment import Int4Method

DAMPING = 0.01
"""Of the mean of the Hessian's diagonal, added to it (GPTQ, section 3.3)."""
BLOCK = 128
"""Columns after which the rest of a row is made up for at once."""
SHARES = [0.7 + 0.02 * step for step in range(18)]
"""Of the scale that a group's largest weight asks for: cutting that one off may leave the others closer."""
_LAYOUTS = ("gpt2", "phi3", "deepseek_v3")
"""Families whose files have no matrix of their own for each of ours."""


class Rounded(NamedTuple):
    """integers (N, K) int8 from -8 to 7, and scales (N, K / group) bf16."""

    integers: Tensor
    scales: Tensor

    def floats(self) -> Tensor:
        """The weight (N, K) float32 that they stand for."""
        each = self.integers.shape[1] // self.scales.shape[1]
        return self.integers.float() * self.scales.float().repeat_interleave(each, 1)

    def tensors(self, layer: str) -> dict[str, Tensor]:
        """Under the names of compressed-tensors: eight integers in each int32, the first one lowest."""
        unsigned = (self.integers.to(torch.int32) + 8).reshape(len(self.integers), -1, 8)
        packed = (unsigned << torch.arange(0, 32, 4, dtype=torch.int32)).sum(-1, dtype=torch.int32)
        return {
            f"{layer}.weight_packed": packed,
            f"{layer}.weight_scale": self.scales,
            f"{layer}.weight_shape": torch.tensor(self.integers.shape),
        }


def nearest(weight: Tensor, group: int) -> Rounded:
    """Each weight (N, K) on its own."""
    scales = _scales(weight.float().reshape(len(weight), -1, group))
    return Rounded(_integers(weight.float(), scales.float().repeat_interleave(group, 1)), scales)


def gptq(weight: Tensor, hessian: Tensor, group: int) -> Rounded:
    """The integers that change weight (N, K) times inputs the least; `hessian` (K, K): sum of x x' over inputs x.

    Scales are those that round a group best on its own, columns with large inputs counting more. Columns with the largest inputs
    go first, while there are many others left to make up for them: the error of each is taken off the columns to come, by
    Cholesky's factor of the inverse Hessian.
    """
    left, hessian = weight.double().clone(), hessian.double().clone()
    diagonal = hessian.diagonal()
    dead = diagonal == 0  # an input that was never there: its column costs nothing
    diagonal[dead] = 1
    left[:, dead] = 0
    scales = _best_scales(left, diagonal, group)
    diagonal += DAMPING * diagonal.mean()
    order = diagonal.argsort(descending=True)
    left, hessian, scale = left[:, order], hessian[order][:, order], scales.double()[:, order // group]
    upper = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)
    integers = torch.zeros_like(weight, dtype=torch.int8)
    for start in range(0, weight.shape[1], BLOCK):
        end = min(start + BLOCK, weight.shape[1])
        errors = torch.zeros(len(weight), end - start, dtype=torch.float64)
        for k in range(start, end):
            rounded = _integers(left[:, k], scale[:, k])
            integers[:, order[k]] = rounded
            errors[:, k - start] = (left[:, k] - rounded * scale[:, k]) / upper[k, k]
            left[:, k + 1 : end] -= errors[:, k - start, None] * upper[k, k + 1 : end]
        left[:, end:] -= errors @ upper[start:end, end:]
    return Rounded(integers, scales)


def _best_scales(weight: Tensor, diagonal: Tensor, group: int) -> Tensor:
    """Of each group, the scale of SHARES whose nearest integers are off by least, columns weighted by `diagonal`: bf16."""
    groups, columns = weight.reshape(len(weight), -1, group), diagonal.reshape(1, -1, group)
    best = _scales(groups)
    least = torch.full(best.shape, torch.inf, dtype=torch.float64)
    for share in SHARES:
        tried = _scales(groups * share)
        scale = tried.double()[..., None]
        error = ((_integers(groups, scale) * scale - groups).square() * columns).sum(-1)
        best, least = torch.where(error < least, tried, best), torch.minimum(error, least)
    return best


def _scales(groups: Tensor) -> Tensor:
    """(..., group) -> (...) bf16."""
    return (groups.abs().amax(-1) / 7.5).clamp_min(1e-12).to(torch.bfloat16)


def _integers(weight: Tensor, scale: Tensor) -> Tensor:
    return (weight / scale).round().clamp(-8, 7).to(torch.int8)


def check(config: ModelConfig, group: int | None = None) -> None:
    """ArtifactError where no other program could load the layout (with one scale a row where `group` is None), or groups do not
    fill the rows."""
    name, fix = family(config), "quantize it with `scheme: bf16`, or export it as GGUF"
    if config.experts is not None or name in _LAYOUTS:
        kind = "a mixture of experts" if config.experts is not None else f"a {name}"
        wanted = "float8" if group is None else "int4"
        raise ArtifactError(f"{kind} keeps its matrices in a layout that has no {wanted}", fix=fix)
    if group is None:
        return
    for width in (config.dim, config.heads * config.head_dim, config.hidden):
        if width % group or width % 8:
            raise ArtifactError(
                f"rows of {width} weights are no multiple of the group of {group}",
                fix="set `group_size` to a divisor of the model's widths that is a multiple of 8",
            )


def off_by(weight: Tensor, rounded: Tensor) -> float:
    """The largest error of a matrix (N, K), relative to the largest weight of its row."""
    largest = weight.abs().amax(dim=-1, keepdim=True).clamp_min(1e-12)
    return float(((rounded - weight).abs() / largest).max())


@torch.no_grad()
def quantized(
    model: Transformer, group: int, rows: Sequence[TokenRow] | None, method: Int4Method = "gptq"
) -> tuple[dict[str, Rounded], float]:
    """Layer -> its integers, for every linear layer of the blocks, and the worst `off_by`; `model` keeps what they stand for.

    `rows` calibrate `method`, each block on what the rounded blocks before it give; None: the nearest integers. ArtifactError as
    in `check`.
    """
    check(model.config, group)
    done: dict[str, Rounded] = {}
    worst = 0.0
    streams, contexts = ([], []) if rows is None else _entering(model, rows)
    for number, block in enumerate(model.model.layers):
        layers = {name: module for name, module in block.named_modules() if isinstance(module, nn.Linear)}
        inputs = {name: awq.Seen.none(layer.in_features) for name, layer in layers.items()}

        def add(name: str, x: Tensor, inputs: dict[str, awq.Seen] = inputs) -> None:
            inputs[name] = inputs[name].plus(x)

        with watched(layers, add):
            for x, context in zip(streams, contexts, strict=True):
                block(x, *context[number])
        if rows is not None and method.startswith("awq"):
            assert isinstance(block, Block)
            tokens = sum(x.shape[:-1].numel() for x in streams)
            awq.fold(block, layers, inputs, tokens, lambda weight: nearest(weight, group).floats())
        for name, layer in layers.items():
            made_up = rows is not None and method.endswith("gptq")
            rounded = (
                gptq(layer.weight, inputs[name].hessian, group) if made_up else nearest(layer.weight, group)
            )
            worst = max(worst, off_by(layer.weight, rounded.floats()))
            layer.weight.copy_(rounded.floats())
            done[f"model.layers.{number}.{name}"] = rounded
        streams = [block(x, *context[number]) for x, context in zip(streams, contexts, strict=True)]
    return done, worst


def _entering(
    model: Transformer, rows: Sequence[TokenRow]
) -> tuple[list[Tensor], list[list[tuple[object, ...]]]]:
    """What the first block reads of each row, and what each block is given beside that."""
    streams: list[Tensor] = []
    contexts: list[list[tuple[object, ...]]] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if module is model.model.layers[0]:
            streams.append(inputs[0])
            contexts.append([])
        contexts[-1].append(inputs[1:])

    handles = [block.register_forward_pre_hook(keep) for block in model.model.layers]
    try:
        for row in rows:
            model.hidden(torch.tensor([row.ids]), torch.arange(len(row.ids))[None], None)
    finally:
        for handle in handles:
            handle.remove()
    return streams, contexts


def scheme(group: int) -> dict[str, object]:
    """`quantization_config` of config.json."""
    weights: dict[str, object] = {
        "num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": group, "dynamic": False,
    }  # fmt: skip
    return compressed_tensors("pack-quantized", weights)
