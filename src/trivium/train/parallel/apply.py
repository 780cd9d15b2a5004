"""Lays a model over the ranks, with PyTorch's own engines: DTensor for tensor parallelism, FSDP2 for shards.

Order matters: tensor parallelism first, then sharding over what it left (Liang et al. 2024, TorchTitan, section 2.2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._functional_collectives import all_gather_single_autograd
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    parallelize_module,
)

from trivium.errors import RecipeError
from trivium.model.config import ModelConfig
from trivium.model.transformer import Transformer
from trivium.train.distributed import Mesh
from trivium.train.parallel import experts
from trivium.train.parallel.pipeline import Elsewhere, Stage
from trivium.types import Batch, Batches

SPLIT_BY_HEADS: dict[str, type[ColwiseParallel | RowwiseParallel]] = {
    "self_attn.q_proj": ColwiseParallel,
    "self_attn.k_proj": ColwiseParallel,
    "self_attn.v_proj": ColwiseParallel,
    "self_attn.o_proj": RowwiseParallel,
    "mlp.gate_proj": ColwiseParallel,
    "mlp.up_proj": ColwiseParallel,
    "mlp.down_proj": RowwiseParallel,
}
"""Which side of each matrix is split over `tensor` ranks (Shoeybi et al. 2019, Megatron-LM, section 3)."""


def check(config: ModelConfig, mesh: Mesh, length: int) -> None:
    """RecipeError where the layout does not divide the model or the row. `length`: tokens in a row."""
    tensor, context, pipeline = mesh.size("tensor"), mesh.size("context"), mesh.size("pipeline")
    for what, count in (
        ("heads", config.heads),
        ("key/value heads", config.kv_heads),
        ("hidden", config.hidden),
    ):
        if count % tensor:
            raise RecipeError(
                f"`tensor: {tensor}` does not divide the model's {count} {what}",
                fix=f"choose a divisor of {count}",
            )
    if tensor > 1 and (config.latent is not None or config.sinks or config.qk_norm_whole):
        raise RecipeError(
            "`tensor` splits attention by heads, and this model's latent vectors, sinks or norms over all heads do not "
            "split that way",
            fix="use `shard` instead",
        )
    experts.check(config, mesh)
    if length % context:
        raise RecipeError(
            f"`context: {context}` does not divide rows of {length} tokens",
            fix=f"choose a divisor of {length}",
        )
    if config.layers < pipeline:
        raise RecipeError(
            f"`pipeline: {pipeline}` is more stages than the model's {config.layers} layers",
            fix="use fewer stages",
        )


def parallelise(model: Transformer, mesh: Mesh, *, bf16: bool = False) -> nn.Module:
    """Changes `model` in place so that its ranks together hold and compute what one would: same sums, same loss.

    Returns what to call: the model, or this rank's stage of it where it has a `pipeline` axis.
    """
    root: nn.Module = model
    if mesh.size("pipeline") > 1:
        root = Stage(model, mesh.place("pipeline"), mesh.size("pipeline"))
    blocks = [block for block in model.model.layers if not isinstance(block, Elsewhere)]
    if (across := mesh.along("tensor")) is not None:
        for block in blocks:
            names = dict(block.named_modules())
            present: dict[str, ParallelStyle] = {
                n: style() for n, style in SPLIT_BY_HEADS.items() if n in names
            }
            parallelize_module(block, across, present)
    if (across := mesh.along("expert")) is not None:
        experts.share(model, across)
    if (across := mesh.along("context")) is not None:
        if model.config.changes_at is not None:
            raise RecipeError(
                "rows of a model with longrope cannot be cut: how long a text is decides all its positions",
                fix="train it without `parallel.context`",
            )
        model.model.sequence = Sequence(across)
    if mesh.size("shard") > 1:
        _shard(root, blocks, mesh, bf16)
    return root


def _shard(root: nn.Module, blocks: list[nn.Module], mesh: Mesh, bf16: bool) -> None:
    """FSDP2 (Zhao et al. 2023), hybrid where there is a `data` axis too: shards within `shard`, copies across `data`."""
    assert mesh.grid is not None
    inner = mesh.along("shard", "context")
    assert inner is not None
    over: DeviceMesh = inner
    if mesh.size("data") > 1:
        name = "shard_context" if mesh.size("context") > 1 else "shard"
        over = mesh.grid[("data", name)]
    half = torch.bfloat16 if bf16 else None
    policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32)
    parts = [*blocks, root]
    for part in parts:
        fully_shard(part, mesh=over, mp_policy=policy)
    for part in parts:
        assert isinstance(part, FSDPModule)
        part.set_gradient_divide_factor(1.0)  # gradients are sums: the loop has divided already
        part.set_force_sum_reduction_for_comms(True)


class Sequence:
    """Rows cut along time: each rank holds a run of places and sees the keys and values of all.

    Keys and values are gathered before attention (Llama 3, arXiv 2407.21783, section 3.3.2): they are few under
    grouped-query attention, and any mask of documents works.
    """

    def __init__(self, across: DeviceMesh) -> None:
        self.group = across.get_group()
        self.place, self.size = across.get_local_rank(), across.size()

    def gather(self, x: Tensor, dim: int) -> Tensor:
        """The whole of `x` along `dim`, from the parts of all ranks; gradients go back to their parts, summed."""
        if x.is_floating_point():
            whole: Tensor = all_gather_single_autograd(x.contiguous(), dim, self.group)
            return whole
        parts = [torch.empty_like(x) for _ in range(self.size)]
        dist.all_gather(parts, x.contiguous(), group=self.group)
        return torch.cat(parts, dim)

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, K, T, E) of this rank's places -> those of the whole row. Like a cache, and in its place."""
        return self.gather(keys, 2), self.gather(values, 2)

    def part(self, x: Tensor, dim: int) -> Tensor:
        """This rank's run of places of `x`."""
        return x.chunk(self.size, dim)[self.place].contiguous()


@dataclass
class Cut:
    """Batches of which this rank sees its own run of places in every row."""

    whole: Batches
    sequence: Sequence
    period: int

    def batch(self, step: int) -> list[Batch]:
        along_time = {"tokens", "targets", "loss_mask", "positions", "doc_id", "source"}
        return [
            {name: self.sequence.part(x, 1) if name in along_time else x for name, x in micro.items()}  # type: ignore[misc, arg-type]
            for micro in self.whole.batch(step)
        ]


def cut(model: Transformer, batches: Batches) -> Batches:
    """`batches` as the ranks of `model` need them: rows cut along time where it has a `context` axis."""
    sequence = model.model.sequence
    assert sequence is None or isinstance(sequence, Sequence)
    return batches if sequence is None else Cut(batches, sequence, batches.period)
