"""Expert parallelism: ranks with other rows share one set of experts, and rows travel to theirs and back (GShard, Lepikhin 2020).

Everything but the experts is copied on these ranks, as along `data`. The number of rows that go from one rank to another is known
only when the router has chosen, so it is exchanged first.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributed._functional_collectives import all_to_all_single, all_to_all_single_autograd
from torch.distributed.device_mesh import DeviceMesh

from trivium.errors import RecipeError
from trivium.model.config import ModelConfig
from trivium.model.moe import MixtureOfExperts, sizes
from trivium.model.transformer import Transformer
from trivium.train.distributed import Mesh
from trivium.train.parallel.pipeline import Elsewhere


def check(config: ModelConfig, mesh: Mesh) -> None:
    """RecipeError where the model's experts cannot be shared in this layout."""
    ranks = mesh.size("expert")
    if ranks == 1:
        return
    if config.experts is None:
        raise RecipeError(f"`expert: {ranks}` is for a mixture of experts, which this model is not")
    if config.experts.count % ranks:
        raise RecipeError(
            f"`expert: {ranks}` does not divide the model's {config.experts.count} experts",
            fix=f"choose a divisor of {config.experts.count}",
        )
    if mesh.size("shard", "tensor", "pipeline") > 1:
        raise RecipeError(
            "`expert` goes with `data` and `context` only, not with `shard`, `tensor` or `pipeline`",
            fix="use `data` ranks, or leave `expert` out: `shard` splits the experts' weights too",
        )


def share(model: Transformer, across: DeviceMesh) -> None:
    """Leaves every rank of `across` its run of each layer's experts, in place."""
    ranks, place = across.size(), across.get_local_rank()
    for layer in model.modules():
        if not isinstance(layer, MixtureOfExperts):
            continue
        count = len(layer.experts) // ranks
        layer.held = range(place * count, (place + 1) * count)
        layer.exchange = Rows(across)
        for index in range(len(layer.experts)):
            if index not in layer.held:
                layer.experts[index] = Elsewhere()
        for parameter in layer.experts.parameters():
            parameter.is_expert = True  # type: ignore[attr-defined]  # for `distributed`: no copy on the other ranks


class Rows:
    """Sends rows to the ranks that hold their experts, and what became of them back (`model.moe.Exchange`)."""

    def __init__(self, across: DeviceMesh) -> None:
        self.group, self.ranks = across.get_group(), across.size()

    def __call__(self, rows: Tensor, counts: Tensor, compute: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        there = counts.view(self.ranks, -1)  # (rank, its expert): rows of this rank that go there
        here = all_to_all_single(counts, None, None, self.group).view_as(there)
        sent, received = sizes(there.sum(1), len(rows)), sizes(here.sum(1), len(rows))
        arrived = all_to_all_single_autograd(rows, received, sent, self.group)
        # sorted by rank, then by expert; an expert wants its rows together
        expert = torch.arange(there.shape[1], device=rows.device).repeat(self.ranks)
        order = torch.repeat_interleave(expert, here.flatten(), output_size=len(arrived)).argsort(stable=True)
        made = compute(arrived[order], here.sum(0))
        back = torch.zeros_like(made).index_copy(0, order, made)
        home: Tensor = all_to_all_single_autograd(back, sent, received, self.group)
        return home
