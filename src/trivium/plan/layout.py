"""What `parallel: auto` means: copies where the model fits a device, shards where it does not."""

from __future__ import annotations

from trivium.errors import RecipeError
from trivium.model.config import ModelConfig
from trivium.plan.memory import training
from trivium.recipe.parallel import Parallel

ROOM = 0.8
"""Share of a device's memory that is planned for; the rest is the allocator's."""


def choose(
    config: ModelConfig,
    *,
    devices: int,
    memory: float,
    batch: int,
    micro_batch: int | None,
    context: int,
    bf16: bool = False,
    recompute: bool = False,
) -> Parallel:
    """The layout for `devices` devices of `memory` bytes each and steps of `batch` rows of `context` tokens.

    Fewer devices than there are where the rows do not divide among them. RecipeError if the model fits in no way.
    """
    while batch % (devices * (micro_batch or 1)):
        devices -= 1
        if devices == 0:
            raise RecipeError(
                f"micro-batches of {micro_batch} rows do not make a batch of {batch}",
                fix="change `micro_batch`",
            )
    rows = micro_batch or batch // devices

    def need(parallel: Parallel) -> float:
        return training(config, parallel, rows=rows, context=context, bf16=bf16, recompute=recompute).total

    copies, shards = Parallel(data=devices), Parallel(shard=devices)
    if devices == 1 or need(copies) < ROOM * memory:
        return copies
    if need(shards) > memory:
        raise RecipeError(
            f"training needs about {need(shards) / 2**30:.1f} GiB on each of {devices} devices that have "
            f"{memory / 2**30:.1f} GiB",
            fix="make `micro_batch` smaller, write `recompute: blocks`, or name a layout with `tensor` or `pipeline`",
        )
    return shards
