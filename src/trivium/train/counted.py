"""Counts what a step holds and sends while it runs, operation by operation: bytes alive, their peak, and collectives.

Works on real tensors and on fake ones (`torch._subclasses.FakeTensorMode`: shapes without numbers), so that a dry run and a
real one are counted alike.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trivium.train.distributed import AXES

DECISION = 1024
"""Bytes up to which a collective is one of numbers that all ranks need (the weight of the step, norms), not of tensors."""
SENDING = ("c10d", "_c10d_functional", "_dtensor", "_c10d_functional_autograd")


@dataclass
class Sent:
    """Collectives of one kind along some axes: how many, and bytes of the whole tensors."""

    count: int = 0
    size: int = 0


@dataclass
class Counts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is entered: `held` bytes alive of what has been seen, `peak`, and `sent` by (operation, axes).

    `sizes`: ranks along each of `distributed.AXES`. Tensors that are there before are told with `sees`.
    """

    sizes: Mapping[str, int]
    held: int = 0
    peak: int = 0
    sent: dict[tuple[str, str], Sent] = field(default_factory=dict)
    earlier: list[int] = field(default_factory=list)
    """The peaks of the parts of the step that have ended."""

    def __post_init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known: dict[int, int] = {}  # storage -> bytes

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):  # its parts come here one by one
            return NotImplemented
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.sees(leaf)
        if func.namespace in SENDING:
            self._sends(func, args, out)
        return out

    def sees(self, tensor: Tensor) -> None:
        """Counts the storage of `tensor`, once, until it is freed."""
        if isinstance(tensor, DTensor):
            tensor = tensor.to_local()
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        self._known[key] = storage.nbytes()
        self._moves(storage.nbytes())
        weakref.finalize(storage, self._forget, key)

    def part(self) -> None:
        """A part of the step ends: the peak begins anew."""
        self.earlier.append(self.peak)
        self.peak = self.held

    def _moves(self, size: int) -> None:
        self.held += size
        self.peak = max(self.peak, self.held)

    def _forget(self, key: int) -> None:
        self.held -= self._known.pop(key, 0)

    @contextmanager
    def running(self) -> Iterator[Counts]:
        """Counts inside the block. FSDP takes and gives back memory by changing the size of storages, which is no operation."""
        resize = torch.UntypedStorage.resize_

        def resized(storage: torch.UntypedStorage, size: int) -> Any:
            before, key = storage.nbytes(), storage._cdata
            made = resize(storage, size)
            if key in self._known:
                self._known[key] += storage.nbytes() - before
                self._moves(storage.nbytes() - before)
            return made

        with mock.patch.object(torch.UntypedStorage, "resize_", resized), self:
            yield self

    def _sends(self, func: Any, args: Any, out: Any) -> None:
        name = func._opname
        if name.startswith(("wait", "barrier")):
            return
        group = _group(args)
        if group is None or group.size() == 1:
            return
        sizes = [_bytes(one) for one in (*args, out)]
        entry = self.sent.setdefault((_plain(name), self._axes(group)), Sent())
        entry.count += 1
        entry.size += max(sizes)

    def _axes(self, group: dist.ProcessGroup) -> str:
        """The axes along which the ranks of a group differ: `shard x context`."""
        first, *_, last = ranks = dist.get_process_group_ranks(group)
        differ, stride = [], 1
        for axis in reversed(AXES):
            size = self.sizes[axis]
            if len({rank // stride % size for rank in (first, last, ranks[1])}) > 1:
                differ.append(axis)
            stride *= size
        return " x ".join(reversed(differ))


def _bytes(value: Any) -> int:
    return sum(leaf.nbytes for leaf in tree_leaves(value) if isinstance(leaf, Tensor))


def _group(args: Any) -> dist.ProcessGroup | None:
    for leaf in reversed(tree_leaves(args)):  # behind other words: asking for a group `sum` is slow
        if isinstance(leaf, torch.ScriptObject) and "ProcessGroup" in str(leaf._type()):
            return dist.ProcessGroup.unbox(leaf)
        if isinstance(leaf, str):
            try:
                return torch._C._distributed_c10d._resolve_process_group(leaf)  # type: ignore[arg-type]
            except RuntimeError:  # another word: `sum`
                continue
    return None


def _plain(name: str) -> str:
    """`_allgather_base_`, `all_gather_into_tensor` -> gather; and so on."""
    for part, plain in (("gather", "gather"), ("scatter", "scatter"), ("reduce", "sum"), ("all", "exchange")):
        if part in name:
            return plain
    return name.strip("_")
