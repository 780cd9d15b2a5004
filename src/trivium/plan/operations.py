"""The operations of one block and what stands around it, each with its work and its bytes (no torch)."""

from __future__ import annotations

from dataclasses import dataclass

from trivium.model.config import ModelConfig
from trivium.plan import flops, memory, roofline
from trivium.plan.hardware import Accelerator


@dataclass(frozen=True)
class Operation:
    """One operation of one forward pass of a rank: FLOP, bytes to and from memory, seconds at the roofline."""

    name: str
    work: float
    moved: float
    seconds: float

    @property
    def intensity(self) -> float:
        """FLOP for each byte."""
        return self.work / self.moved

    @property
    def rate(self) -> float:
        """FLOP/s."""
        return self.work / self.seconds


def operations(config: ModelConfig, device: Accelerator, shape: roofline.Shape) -> list[Operation]:
    """Of the last block (with experts, where the model has them), the output layer and the optimizer."""
    split = shape.parallel.tensor
    tokens = shape.micro * shape.context / shape.parallel.context
    heads, keys = config.heads * config.head_dim / split, config.kv_heads * config.head_dim / split
    gates, experts = (2 if config.gated else 1), config.experts

    def product(name: str, inner: float, columns: float, rows: float = tokens, times: float = 1) -> Operation:
        moved = 2 * (rows * inner + inner * columns + rows * columns)
        seconds = roofline.product(device, rows, inner, columns, shape.fp8)
        return Operation(name, times * 2 * rows * inner * columns, times * moved, times * seconds)

    if config.latent is None:
        found = [
            product("queries, keys, values", config.dim, heads + 2 * keys),
            product("attention's output", heads, config.dim),
        ]
    else:
        found = [
            product("latent attention's products", config.dim, flops.attention_matrices(config) / config.dim)
        ]
    if experts is None:
        found += [
            product("gate and up" if config.gated else "up", config.dim, gates * config.hidden / split),
            product("down", config.hidden / split, config.dim),
        ]
    else:
        held = experts.count / shape.parallel.expert
        rows = tokens * experts.top_k / held
        found += [
            product("experts, gate and up", config.dim, 2 * experts.hidden, rows, held),
            product("experts, down", experts.hidden, config.dim, rows, held),
        ]
    work = flops.square(config) / config.layers * shape.context / 2 * tokens / split
    read = 2 * tokens * (2 * heads + 2 * keys * shape.parallel.context)
    found.append(Operation("attention", work, read, work / (device.peak * device.attention) + roofline.START))
    residual, qkv, wide = roofline.POINTWISE
    hidden = config.hidden / split if experts is None else experts.hidden * (experts.top_k + experts.shared)
    numbers = tokens * (residual * config.dim + qkv * (heads + 2 * keys) + wide * hidden)
    found.append(
        Operation("norms, positions, gates", numbers, 2 * numbers, roofline.stream(device, 2 * numbers, 6))
    )
    found.append(product("output layer", config.dim, config.vocab_size))
    held_numbers = memory.parameters(config, shape.parallel, shape.others)
    seconds = roofline.stream(device, 28 * held_numbers, 10)
    found.append(Operation("optimizer", 12 * held_numbers, 28 * held_numbers, seconds))
    return found
