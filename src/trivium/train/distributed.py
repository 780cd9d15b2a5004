"""Ranks: who holds which part of the data and of the model, and sums over them. One process is the case with nothing to add.

A layout has six axes (`recipe.parallel.Parallel`), outermost first: pipeline, data, expert, shard, context, tensor. Ranks that
differ in `data`, `expert` or `shard` see other rows; ranks that differ in `context` see other places of the same rows; ranks that
differ in `tensor` or `pipeline` see the same tokens and hold other parts of the model. A recipe's `data` is `data` x `expert`
here: ranks that differ in `expert` hold other experts and copies of all else.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import PrefixStore, Store
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.rendezvous import rendezvous

from trivium.errors import RecipeError

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

AXES = ("pipeline", "data", "expert", "shard", "context", "tensor")
ROWS = ("data", "expert", "shard")
"""The axes along which ranks see other rows."""


@dataclass(frozen=True)
class Mesh:
    """The ranks as a grid of the axes that have several. `grid` is None in a run of one process, which then is its own only rank
    on every axis."""

    sizes: Mapping[str, int]
    grid: DeviceMesh | None = None
    _rows: dict[tuple[str, ...], DeviceMesh] = field(default_factory=dict, compare=False, repr=False)

    def size(self, *axes: str) -> int:
        return math.prod(self.sizes[axis] for axis in axes)

    def place(self, *axes: str) -> int:
        """This rank's number along the axes taken together, the last one changing fastest."""
        place = 0
        for axis in axes:
            here = self.grid.get_local_rank(axis) if self.grid is not None and self.sizes[axis] > 1 else 0
            place = place * self.sizes[axis] + here
        return place

    def along(self, *axes: str) -> DeviceMesh | None:
        """The ranks that differ from this one only along `axes`, as one row; None if this rank is alone there."""
        if self.grid is None or self.size(*axes) == 1:
            return None
        several = tuple(axis for axis in axes if self.sizes[axis] > 1)
        if several not in self._rows:
            part = self.grid[several]
            self._rows[several] = part if len(several) == 1 else part._flatten("_".join(several))
        return self._rows[several]


ALONE = Mesh(dict.fromkeys(AXES, 1))
_current: Mesh = ALONE


def start(sizes: Mapping[str, int], device: str, *, timeout_s: float = 600.0) -> Mesh:
    """Joins the ranks that a launcher started (torchrun's environment) and lays them out. Alone, there is nothing to join.

    A rank that does not answer within `timeout_s` seconds makes the others fail, so that a launcher can start anew.
    RecipeError if the layout does not fill the ranks.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    sizes = {axis: sizes.get(axis, 1) for axis in AXES}
    if sizes["data"] % sizes["expert"]:
        raise RecipeError(
            f"`expert: {sizes['expert']}` does not divide `data: {sizes['data']}`",
            fix=f"choose a divisor of {sizes['data']}",
        )
    sizes["data"] //= sizes["expert"]
    if math.prod(sizes.values()) != world:
        shown = " x ".join(f"{axis} {size}" for axis, size in sizes.items() if size > 1) or "1"
        raise RecipeError(
            f"the parallel layout ({shown}) needs {math.prod(sizes.values())} ranks, and {world} were started",
            fix="change `parallel`, or the number of processes",
        )
    if world == 1:
        return ALONE
    if not dist.is_initialized():
        backend = "nccl" if device == "cuda" else "gloo"
        store, rank, world = _store(timedelta(seconds=timeout_s))
        dist.init_process_group(
            backend, store=store, rank=rank, world_size=world, timeout=timedelta(seconds=timeout_s)
        )
    if device == "cuda":
        # modulo: Ray shows each of its tasks only the GPU that it gave it
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    return _lay_out(sizes, device)


def pretend(sizes: Mapping[str, int]) -> Mesh:
    """The first of as many ranks as `sizes` has, all others made up: what is sent to them arrives nowhere (a dry run).

    `sizes` along AXES: `data` is what is left of a recipe's `data` beside `expert`.
    """
    from torch.testing._internal.distributed.fake_pg import FakeStore

    if math.prod(sizes.values()) == 1:
        return ALONE
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=math.prod(sizes.values()))
    made = _lay_out(sizes, "cpu")
    for axes in (
        (*ROWS, "context"),
        ("data", "expert", "context"),
        ("data", "context"),
        ("shard", "context"),
    ):
        made.along(*axes)  # made with numbers, before there are none
    return made


def _lay_out(sizes: Mapping[str, int], device: str) -> Mesh:
    """An axis of one rank has no place in the grid: torch would make a group for each rank of the world along it."""
    global _current
    axes = tuple(axis for axis in AXES if sizes[axis] > 1)
    grid = init_device_mesh(device, tuple(sizes[axis] for axis in axes), mesh_dim_names=axes)
    _current = Mesh(sizes, grid)
    return _current


def _store(timeout: timedelta) -> tuple[Store, int, int]:
    """Where the ranks find each other, this rank's number and how many there are, from torchrun's environment.

    torchrun keeps one store over all restarts. Each start has its own part of it: a rank that found the addresses of those
    before would wait for ranks that are dead.
    """
    store, rank, world = next(rendezvous("env://", timeout=timeout))
    return PrefixStore(f"start-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store), rank, world


def stop() -> None:
    global _current
    _current = ALONE
    if dist.is_initialized():
        dist.destroy_process_group()


def lost(error: BaseException) -> bool:
    """Whether an error says that another rank is gone or does not answer, not that anything is wrong with this one."""
    if isinstance(error, dist.DistError | ConnectionError):
        return True
    return isinstance(error, RuntimeError) and any(mark in str(error) for mark in LOST)


LOST = (
    "gloo",
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Socket Timeout",
    "NCCL",
    "Timed out waiting",
)
"""What gloo, NCCL and the store say then, in errors that have no class of their own."""


def mesh() -> Mesh:
    """The layout of this run. Where ranks were joined without one, all of them are along `data`."""
    global _current
    if _current.grid is None and dist.is_initialized() and dist.get_world_size() > 1:
        _lay_out({**dict.fromkeys(AXES, 1), "data": dist.get_world_size()}, "cpu")
    elif not dist.is_initialized():
        _current = ALONE
    return _current


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def layout() -> tuple[int, int]:
    """(place among, number of) the ranks that see rows of their own."""
    return mesh().place(*ROWS), mesh().size(*ROWS)


@contextmanager
def first_rank_first() -> Iterator[None]:
    """The first rank goes through the block (and leaves files there), then the others do (and find them)."""
    if dist.is_initialized() and rank() != 0:
        dist.barrier()
    try:
        yield
    finally:
        if dist.is_initialized() and rank() == 0:
            dist.barrier()


def global_sum(value: Tensor) -> Tensor:
    """The sum of `value` over all ranks with other tokens, on every rank."""
    others = mesh().along(*ROWS, "context")
    if others is not None:
        value = value.clone()
        dist.all_reduce(value, group=others.get_group())
    return value


def any_rank(flag: bool, device: str) -> bool:
    """Whether the flag is set on some rank: what all ranks must decide alike."""
    if not dist.is_initialized():
        return flag
    seen = torch.tensor(float(flag), device=device)
    dist.all_reduce(seen)
    return bool(seen)


def is_dtensor(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether ranks share it. Asked of what it has, since one process that has none need not import the class."""
    return hasattr(tensor, "placements")


def sum_gradients(model: nn.Module) -> None:
    """Adds the gradients of all ranks with other tokens. A sum, not a mean: the loop has divided by the global weight.

    Sharded parameters have been summed by FSDP on the way back (`parallel.apply` undoes its averaging). Experts that lie on one
    rank of several have seen all rows of these ranks already, and are summed over their copies only.
    """
    if mesh().size("shard") > 1:
        return
    everyone, copies = mesh().along("data", "expert", "context"), mesh().along("data", "context")
    for parameter in model.parameters():
        others = copies if hasattr(parameter, "is_expert") else everyone
        if parameter.grad is not None and others is not None:
            grad = parameter.grad
            local = grad.to_local() if is_dtensor(grad) else grad
            dist.all_reduce(local, group=others.get_group())


def clip_gradients(model: nn.Module, limit: float) -> Tensor:
    """Scales all gradients so that their joint L2 norm is at most `limit`; returns the norm from before, () float32."""
    if not dist.is_initialized():
        return torch.nn.utils.clip_grad_norm_(model.parameters(), limit)
    # here: importing them takes half as long as torch, for what one process has none of
    from torch.distributed.tensor import DTensor, Partial

    grads: list[Tensor] = []
    # by how they lie on the ranks: one collective for each kind, not for each parameter
    sums: dict[tuple[bool, DeviceMesh | None, tuple[Any, ...]], Tensor] = {}
    for parameter in model.parameters():
        if (grad := parameter.grad) is None:
            continue
        across: DeviceMesh | None = None
        places: tuple[Any, ...] = ()
        if isinstance(grad, DTensor):
            assert not any(place.is_partial() for place in grad.placements)
            across = grad.device_mesh
            places = tuple(one if one.is_replicate() else Partial() for one in grad.placements)
            grad = grad.to_local()
        grads.append(grad)
        if hasattr(parameter, "is_copy"):  # tied embeddings at the end of a pipeline: counted at its start
            continue
        kind = hasattr(parameter, "is_expert"), across, places
        part = torch.linalg.vector_norm(grad.float()) ** 2
        sums[kind] = sums[kind] + part if kind in sums else part
    square = torch.zeros((), device=grads[0].device)
    apart = torch.zeros_like(square)
    for (is_expert, across, places), part in sums.items():
        whole = part if across is None else DTensor.from_local(part, across, places).full_tensor()
        if is_expert:
            apart = apart + whole
        else:
            square = square + whole
    if (sharing := mesh().along("expert")) is not None:
        dist.all_reduce(apart, group=sharing.get_group())
    square = square + apart
    stages = mesh().along("pipeline")
    if stages is not None:
        dist.all_reduce(square, group=stages.get_group())
    norm = square.sqrt()
    torch._foreach_mul_(grads, (limit / (norm + 1e-6)).clamp_max(1.0))
    return norm
