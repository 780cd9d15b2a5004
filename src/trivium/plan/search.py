"""The layouts that a training step can have on a cluster: which are legal, which fit, which is fastest, and the next one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from trivium.errors import RecipeError
from trivium.model.config import ModelConfig
from trivium.plan import memory, roofline
from trivium.plan.hardware import LARGEST, Cluster
from trivium.recipe.parallel import Parallel

ROOM = 0.9
"""Share of a device's memory that is planned for: the rest is the driver's, the allocator's and of what falls apart."""
EQUAL = 0.01
"""A difference in time that no plan can tell."""
PIPELINES = 64
"""Most stages that are tried."""
LONG = 16_384
"""Tokens of a row from which on cutting rows is tried."""
AXES = frozenset({"shard", "tensor", "context", "pipeline", "expert"})


@dataclass(frozen=True)
class Asked:
    """What is to be laid out: a model and the rows of its step, and which axes may be used."""

    config: ModelConfig
    batch: int
    context: int
    micro: int | None = None
    recompute: bool | None = None
    """None: whatever is better."""
    axes: frozenset[str] = AXES
    """Beside `data`: those that the stage may have."""
    forwards: int = 3
    bf16: bool = True
    muon: bool = False
    fp8: bool = False
    frozen: float = 0.0
    """Bytes of models that are only read, on each device."""
    z_loss: bool = False
    rows_per_item: int = 1
    trained: int | None = None
    """Parameters of adapters; None: all."""
    int8: int = 0
    """Numbers of the model that are kept in one byte beside them."""
    others: bool = False
    """What other codes can do and this one cannot: experts beside a pipeline, an output layer split over tensor ranks, fewer
    key/value heads than those. For holding the plan against what they published."""


@dataclass(frozen=True)
class Layout:
    """One way to lay a step out, and what it takes."""

    shape: roofline.Shape
    memory: memory.Memory
    step: roofline.Step

    def __str__(self) -> str:
        rows = f"micro-batches of {self.shape.micro}"
        parts = [
            str(self.shape.parallel) or "one rank",
            rows,
            "recompute: blocks" if self.shape.recompute else "",
        ]
        return ", ".join(part for part in parts if part)


@dataclass(frozen=True)
class Found:
    """The fastest layout that fits and the next one of another grid, of `legal` tried and `fitting` that fit."""

    cluster: Cluster
    winner: Layout
    runner_up: Layout | None
    legal: int
    fitting: int


def needed(asked: Asked, shape: roofline.Shape) -> memory.Memory:
    """Bytes on each rank."""
    counted = memory.training(
        asked.config,
        shape.parallel,
        rows=shape.micro * asked.rows_per_item,
        context=shape.context,
        bf16=shape.bf16,
        recompute=shape.recompute,
        trained=asked.trained,
        int8=asked.int8,
        others=shape.others,
        pointwise=shape.pointwise,
        z_loss=asked.z_loss,
        stages=shape.stages,
    )
    return memory.Memory(**{**vars(counted), "frozen": asked.frozen})


def _powers(limit: int) -> Iterator[int]:
    size = 1
    while size <= limit:
        yield size
        size *= 2


def grids(asked: Asked, cluster: Cluster) -> Iterator[Parallel]:
    """Every legal grid of all devices. Axes are powers of two, but for what is left over; rules as in `recipe.traps_parallel`."""
    config, count = asked.config, cluster.count
    domain = min(cluster.accelerator.domain, count)
    splits = (
        "tensor" in asked.axes and config.latent is None and not config.sinks and not config.qk_norm_whole
    )
    tensors = [
        size
        for size in _powers(domain if splits else 1)
        if config.heads % size == 0
        and (config.kv_heads % size == 0 or asked.others)
        and config.hidden % size == 0
        and count % size == 0
    ]
    long = "context" in asked.axes and asked.context >= LONG
    contexts = [size for size in _powers(64 if long else 1) if asked.context % size == 0]
    pipelines = list(_powers(min(PIPELINES, config.layers) if "pipeline" in asked.axes else 1))
    for tensor in tensors:
        for context in contexts:
            for pipeline in pipelines:
                inner = tensor * context * pipeline
                if count % inner:
                    continue
                rest = count // inner
                for shard in dict.fromkeys([1, *_powers(min(rest, 4096)), rest]):
                    if rest % shard == 0 and ("shard" in asked.axes or shard == 1):
                        yield Parallel(
                            data=rest // shard, shard=shard, tensor=tensor, context=context, pipeline=pipeline
                        )
    experts = config.experts
    if experts is not None and "expert" in asked.axes:
        for expert in _powers(min(experts.count, count)):
            if expert > 1 and count % expert == 0 and experts.count % expert == 0:
                for pipeline in pipelines if asked.others else [1]:
                    if (count // pipeline) % expert == 0 and count % pipeline == 0:
                        yield Parallel(data=count // pipeline, expert=expert, pipeline=pipeline)


def shapes(asked: Asked, parallel: Parallel) -> Iterator[roofline.Shape]:
    """The micro-batches and kinds of recomputation that a grid can have; none where its rows do not divide."""
    ranks = parallel.data * parallel.shard
    if asked.batch % ranks:
        return
    rows = asked.batch // ranks
    for micro in [asked.micro] if asked.micro is not None else _powers(rows):
        if rows % micro:
            continue
        for again in [asked.recompute] if asked.recompute is not None else [False, True]:
            shape = roofline.Shape(
                parallel,
                asked.batch,
                micro,
                asked.context,
                again,
                asked.fp8,
                asked.bf16,
                asked.muon,
                asked.trained,
                others=asked.others,
            )
            for stages in _interleaved(asked, shape):
                yield replace(shape, stages=stages)
                if asked.others and not again:
                    yield replace(shape, stages=stages, pointwise=True)


def _interleaved(asked: Asked, shape: roofline.Shape) -> Iterator[int]:
    """How many stages of a pipeline a rank can have: in other codes several, where micro-batches fill the ranks in groups."""
    ranks = shape.parallel.pipeline
    yield 1
    if asked.others and ranks > 1 and asked.config.layers % ranks == 0 and shape.passes % ranks == 0:
        each = asked.config.layers // ranks
        yield from (stages for stages in _powers(each) if stages > 1 and each % stages == 0)


def search(asked: Asked, cluster: Cluster) -> Found:
    """The fastest layout of the whole cluster, or of as many of its devices as the batch can feed.

    RecipeError where no layout is legal, and where none fits: by how much, and on how many devices one would.
    """
    for size in _usable(cluster.count):
        part = Cluster(cluster.accelerator, size)
        tried = [shape for grid in grids(asked, part) for shape in shapes(asked, grid)]
        if tried:
            break
    else:
        raise RecipeError(
            f"no layout divides {asked.batch} rows of {asked.context} tokens",
            fix="make `batch` a multiple of `micro_batch`",
        )
    sized = [(shape, needed(asked, shape)) for shape in tried]
    room = ROOM * cluster.accelerator.memory
    fitting = [(shape, held) for shape, held in sized if held.total <= room]
    if not fitting:
        raise _fits_nowhere(asked, part, min(sized, key=lambda pair: pair[1].total))
    layouts = [
        Layout(shape, held, roofline.step(asked.config, part, shape, asked.forwards))
        for shape, held in _few(fitting)
    ]
    layouts.sort(key=lambda layout: layout.step.seconds)
    winner = _simplest(layouts)
    others = [one for one in layouts if one.shape.parallel != winner.shape.parallel]
    return Found(part, winner, others[0] if others else None, len(tried), len(fitting))


def _simplest(layouts: list[Layout]) -> Layout:
    """Of those that take as long as the first: the one that cuts the least, recomputes nothing and has the largest passes."""
    equal = [one for one in layouts if one.step.seconds <= layouts[0].step.seconds * (1 + EQUAL)]

    def cuts(layout: Layout) -> tuple[float, ...]:
        grid = layout.shape.parallel
        inner = grid.tensor * grid.context * grid.pipeline * grid.expert
        return inner, grid.shard, layout.shape.recompute, -layout.shape.micro

    return min(equal, key=cuts)


def fixed(asked: Asked, cluster: Cluster, parallel: Parallel) -> Found:
    """The fastest way to run a layout that the recipe names. RecipeError where its rows do not divide, or it does not fit."""
    tried = list(shapes(asked, parallel))
    if not tried:
        raise RecipeError(
            f"a batch of {asked.batch} rows cannot be shared by the layout {parallel}",
            fix=f"make `batch` a multiple of {parallel.data * parallel.shard * (asked.micro or 1)}",
        )
    sized = [(shape, needed(asked, shape)) for shape in tried]
    fitting = [(shape, held) for shape, held in sized if held.total <= ROOM * cluster.accelerator.memory]
    if not fitting:
        raise _fits_nowhere(asked, cluster, min(sized, key=lambda pair: pair[1].total), parallel)
    layouts = [
        Layout(shape, held, roofline.step(asked.config, cluster, shape, asked.forwards))
        for shape, held in fitting
    ]
    return Found(cluster, min(layouts, key=lambda one: one.step.seconds), None, len(tried), len(fitting))


def _usable(count: int) -> Iterator[int]:
    """`count` and what it halves to: a batch of 8 rows feeds no 64 devices."""
    while True:
        yield count
        if count == 1:
            return
        count = count // 2 if count % 2 == 0 else count - 1


def _few(fitting: list[tuple[roofline.Shape, memory.Memory]]) -> list[tuple[roofline.Shape, memory.Memory]]:
    """Of each grid the two largest micro-batches without and with recomputation: smaller ones are slower."""
    kept: dict[tuple[Parallel, bool, bool], list[tuple[roofline.Shape, memory.Memory]]] = {}
    for shape, held in fitting:
        kept.setdefault((shape.parallel, shape.recompute, shape.pointwise), []).append((shape, held))
    return [
        pair
        for (parallel, *_), found in kept.items()
        for pair in (found if parallel.pipeline > 1 else sorted(found, key=lambda one: -one[0].micro)[:2])
    ]


def _fits_nowhere(
    asked: Asked, cluster: Cluster, least: tuple[roofline.Shape, memory.Memory], named: Parallel | None = None
) -> RecipeError:
    """`named`: the one layout that was tried; None: all of them were."""
    device = cluster.accelerator
    shape, held = least
    room = ROOM * device.memory
    parts = ", ".join(f"{cause} {size / 2**30:.2g}" for cause, size in held.parts().items())
    what = (
        f"the model fits in no layout on {cluster}"
        if named is None
        else f"the model does not fit {cluster} in the layout {named}"
    ) + (
        f": the least is {held.total / 2**30:.3g} GiB on each device ({shape.parallel or 'one rank'}; {parts}), "
        f"{held.total / room:.3g} times the {room / 2**30:.3g} GiB that are planned for"
    )
    smallest = _smallest(asked, cluster)
    fix = (
        f"the smallest cluster of its kind on which it fits: {smallest:,} x {device.name}"
        if smallest is not None
        else "more of these devices do not help this batch: take some with more memory, shorter rows, or a larger `batch`"
    )
    return RecipeError(what, fix=fix)


def _smallest(asked: Asked, cluster: Cluster) -> int | None:
    """The least power of two of devices on which some layout fits; None: the rows feed no more devices, and it fits on none."""
    room = ROOM * cluster.accelerator.memory
    for count in _powers(LARGEST):
        bigger = Cluster(cluster.accelerator, count)
        tried = (shape for grid in grids(asked, bigger) for shape in shapes(asked, grid))
        if any(needed(asked, shape).total <= room for shape in tried):
            return count
    return None
