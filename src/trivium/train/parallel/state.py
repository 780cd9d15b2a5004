"""Whole tensors from their parts and back: a checkpoint knows nothing of the ranks that wrote it, so others can read it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trivium.model.transformer import Transformer
from trivium.train.distributed import is_dtensor, mesh


def whole(named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of all ranks in one dictionary, on the CPU and whole, on every rank. All ranks call it together.

    Alone, these are the tensors themselves, not copies.
    """
    if not dist.is_initialized():
        return {name: tensor.detach() for name, tensor in named.items()}
    found = {name: _full(tensor.detach()).contiguous() for name, tensor in named.items()}
    for axis in ("expert", "pipeline"):
        if (parts := mesh().along(axis)) is not None:
            found = _from_all(found, parts.get_group())
    return {name: tensor.cpu() for name, tensor in found.items()}


def trained(model: nn.Module) -> dict[str, Tensor]:
    """The model's state without what training leaves as it was: all of it, or adapters alone."""
    state: dict[str, Tensor] = model.state_dict()
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    if not frozen:
        return state
    learnt = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {name: tensor for name, tensor in state.items() if name in learnt}


def _full(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if is_dtensor(tensor) else tensor


def _from_all(found: dict[str, Tensor], group: dist.ProcessGroup) -> dict[str, Tensor]:
    """The tensors of every rank of `group` on all of them. What lies on some (tied embeddings) comes from the first of these."""
    listed: list[dict[str, tuple[torch.Size, torch.dtype]]] = [{} for _ in range(dist.get_world_size(group))]
    dist.all_gather_object(listed, {n: (t.shape, t.dtype) for n, t in found.items()}, group=group)
    ranks = dist.get_process_group_ranks(group)
    device = next(iter(found.values())).device
    every = {name: tensor for name, tensor in found.items() if all(name in shapes for shapes in listed)}
    for owner, shapes in zip(ranks, listed, strict=True):
        for name, (shape, dtype) in shapes.items():
            if name not in every:
                mine = owner == dist.get_rank()
                every[name] = found[name] if mine else torch.empty(shape, dtype=dtype, device=device)
                dist.broadcast(every[name], owner, group=group)
    return every


def gathered(model: Transformer) -> Transformer:
    """The whole model on every rank, on the CPU; `model` itself where there is only one. All ranks call it together."""
    if not dist.is_initialized():
        return model
    with torch.device("meta"):
        single = Transformer(model.config)
    single.load_state_dict(whole(model.state_dict()), assign=True)
    return single


def place(source: Mapping[str, Tensor], into: Mapping[str, Tensor]) -> None:
    """Copies whole tensors into the parts that this rank holds of them. KeyError if one is missing."""
    for name, target in into.items():
        value = source[name].to(target.device, target.dtype)
        if is_dtensor(target):
            from torch.distributed.tensor import distribute_tensor

            part = distribute_tensor(value, target.device_mesh, target.placements, src_data_rank=None)
            target.to_local().detach().copy_(part.to_local())
        else:
            target.detach().copy_(value)


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state by the name of its parameter: `layer.weight/exp_avg` and so on; on this rank, as it lies."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{names[parameter]}/{key}": value
        for parameter, entries in optimizer.state.items()
        for key, value in entries.items()
        if isinstance(value, Tensor)
    }


def load_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Gives `optimizer` the state that `optimizer_tensors` took, whole: parts are cut as the parameters are."""
    by_name: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, entry = key.rsplit("/", 1)
        by_name.setdefault(name, {})[entry] = value
    for name, parameter in model.named_parameters():
        if name not in by_name or not parameter.requires_grad:
            continue
        entries = {}
        for entry, value in by_name[name].items():
            if value.shape == parameter.shape:
                entries[entry] = torch.zeros_like(parameter, dtype=value.dtype)
                place({entry: value}, {entry: entries[entry]})
            else:  # the count of steps
                entries[entry] = value.clone()
        optimizer.state[parameter] = entries
