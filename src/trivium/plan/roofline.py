"""Seconds of one training step in one layout: a roofline for each operation, collectives by size and link, the bubble.

An operation takes as long as its arithmetic at the rate that large products reach, or as its bytes at the memory's rate, the
longer of the two (Williams et al. 2009), and a moment to start. Nothing here is fitted to a model: the constants below are of
kernels and links, with their sources. What real runs lose beside it is a doubt of its own (`doubts.yaml`: practice, goodput).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from trivium.model.config import ModelConfig
from trivium.plan import flops, memory, traffic
from trivium.plan.hardware import Accelerator, Cluster
from trivium.recipe.parallel import Parallel

START = 3e-6
"""Seconds that a kernel takes beside its work: ramp, tail, launch (a product of 1 GFLOP on an A100 then reaches 0.55 of the peak;
Calculon's table has 0.6)."""
STREAM = 0.85
"""Share of the memory's rate that pointwise kernels reach (Calculon: 0.9 from 100 MB, 0.75 at 10 MB)."""
LINK = 0.8
"""Share of a link's rate that collectives reach (Calculon: 0.65 inside a node, 0.9 between nodes)."""
BACKWARD = 0.85
"""Rate of fused attention's backward pass beside its forward pass (Dao 2023, figures 4 to 6)."""
HIDDEN = 0.9
"""Share of the collectives of shards and gradients that can run behind arithmetic."""
POINTWISE = (16, 4, 6)
"""Numbers that pointwise kernels of a block move for a token, forward: so many of the residual's width, of queries, keys and
values, of the hidden width (norms, rotary positions, the gate, two residual sums; twice what perfectly fused ones would)."""
HOST = 250e-6
"""Seconds in which the host starts the kernels of a block, there and back: what small models wait for."""
STEP = 5e-3
"""Seconds of the loop between steps: the next batch, the schedule, a line now and then."""
STRAGGLE = 0.015
"""Time more for each doubling of the nodes: the slowest sets the pace (llm-foundry 7B from 1 to 64 nodes lost 9%, MaxText 32B 10%
over five doublings)."""
FP8 = 1.45
"""How many times faster products are in 8 bits, casts included: the peak doubles, and end to end 1.15 to 1.3 is measured."""


@dataclass(frozen=True)
class Shape:
    """What a rank does in a step: `batch` rows of `context` tokens in all, `micro` of them in a pass of a rank."""

    parallel: Parallel
    batch: int
    micro: int
    context: int
    recompute: bool = False
    fp8: bool = False
    bf16: bool = True
    muon: bool = False
    trained: int | None = None
    """Parameters of adapters beside frozen weights; None: all are trained."""
    pointwise: bool = False
    """Whether what is no product is computed again on the way back, as other codes do."""
    others: bool = False
    """As other codes do: tensor ranks split the output layer, stages of a pipeline are balanced around it, rows of experts travel
    behind arithmetic."""
    stages: int = 1
    """Stages of the pipeline that each rank has, one after the other (interleaved: Narayanan et al. 2021, section 2.2). In other
    codes only: ours has one."""

    @property
    def passes(self) -> int:
        """Micro-batches that a rank goes through in a step."""
        return self.batch // (self.parallel.data * self.parallel.shard * self.micro)


@dataclass(frozen=True)
class Step:
    """Seconds of an optimizer step by cause."""

    parts: Mapping[str, float]
    work: float
    """FLOP of the model in the step, over all ranks: recomputation is no work."""

    @property
    def seconds(self) -> float:
        return sum(self.parts.values())

    def utilisation(self, cluster: Cluster) -> float:
        """Share of the peak of all devices, counted as PaLM does (whole squares of attention)."""
        return self.work / (self.seconds * cluster.count * cluster.accelerator.peak)


def product(device: Accelerator, rows: float, inner: float, columns: float, fp8: bool = False) -> float:
    """Seconds of a matrix product (rows, inner) by (inner, columns) in 16 bits."""
    rate = device.peak * device.reach * (FP8 if fp8 and device.fp8 else 1.0)
    moved = 2 * (rows * inner + inner * columns + rows * columns)
    return max(2 * rows * inner * columns / rate, moved / (device.bandwidth * STREAM)) + START


def stream(device: Accelerator, size: float, kernels: int = 1) -> float:
    """Seconds to move `size` bytes through pointwise kernels."""
    return size / (device.bandwidth * STREAM) + kernels * START


def _ring(cluster: Cluster, size: float, ranks: int, inner: int, rounds: int = 1) -> float:
    """Seconds in which `ranks` ranks gather `size` bytes in all (`rounds` 2: sum them), in a ring.

    `inner`: neighbours that lie closer (other axes). Ranks of one domain share its links to the network.
    """
    if ranks == 1:
        return 0.0
    device = cluster.accelerator
    together = max(1, device.domain // inner)
    rate = device.link if ranks <= together else min(device.link, together * device.network)
    return rounds * ((ranks - 1) / ranks * size / (rate * LINK) + START * math.log2(ranks))


def _block(
    config: ModelConfig, layer: int, device: Accelerator, shape: Shape, tokens: float
) -> tuple[float, float]:
    """Seconds of the products and of the pointwise kernels of one block, forward."""
    split = shape.parallel.tensor
    heads, keys = config.heads * config.head_dim / split, config.kv_heads * config.head_dim / split

    def of(inner: float, columns: float, rows: float = tokens) -> float:
        return product(device, rows, inner, columns, shape.fp8)

    if config.latent is not None:  # several narrow products: their weights as one
        matrices = flops.attention_matrices(config)
        seconds = of(config.dim, matrices / config.dim / split)
    else:
        seconds = of(config.dim, heads + 2 * keys) + of(heads, config.dim)
    residual, qkv, wide = POINTWISE
    experts = config.experts
    gates = 2 if config.gated else 1
    if experts is None or layer < experts.dense:
        hidden = config.hidden / split
        seconds += of(config.dim, gates * hidden) + of(hidden, config.dim)
        moved = wide * hidden
    else:
        used, held = experts.top_k, experts.count / shape.parallel.expert
        rows = tokens * used / held  # of all expert ranks
        each = of(config.dim, 2 * experts.hidden, rows) + of(experts.hidden, config.dim, rows)
        seconds += held * each + of(config.dim, experts.count)
        if experts.shared:
            wide_shared = experts.shared * experts.hidden / split
            seconds += of(config.dim, 2 * wide_shared) + of(wide_shared, config.dim)
        moved = (
            wide * experts.hidden * (used + experts.shared) + 4 * used * config.dim
        )  # and rows sorted and back
    moved += residual * config.dim + qkv * (heads + 2 * keys)
    return seconds, stream(device, 2 * tokens * moved, 6)


def _attention(
    config: ModelConfig, layer: int, device: Accelerator, shape: Shape, tokens: float
) -> tuple[float, float]:
    """Seconds of attention's two products of one block: forward, backward (2.5 times the work). The masked half is left out."""
    seen = float(shape.context)
    if config.window is not None and layer in config.windowed:
        seen = min(seen, 2.0 * config.window)
    work = flops.square(config) / config.layers * seen / 2 * tokens / shape.parallel.tensor
    rate = device.peak * device.attention
    return work / rate + START, 2.5 * work / (rate * BACKWARD) + START


def step(config: ModelConfig, cluster: Cluster, shape: Shape, forwards: int = 3) -> Step:
    """The time of a step by cause. `forwards`: work for a token in forward passes, 3 for plain training; what is more are passes
    of models that are only read."""
    device, parallel = cluster.accelerator, shape.parallel
    tokens = shape.micro * shape.context / parallel.context
    mine = config.layers / parallel.pipeline
    again = 1 if shape.recompute else 0
    frozen = shape.trained is not None
    rounds = forwards - frozen  # a frozen weight needs no product for its own gradient
    products = pointwise = looking = 0.0
    for layer, count in _kinds(config).items():
        seconds, moving = _block(config, layer, device, shape, tokens)
        ahead, back = _attention(config, layer, device, shape, tokens)
        share = count / parallel.pipeline
        products += share * seconds * (rounds + again)
        pointwise += share * moving * (forwards + (again or shape.pointwise))
        looking += share * (ahead * (forwards - 2 + again) + back)
    logits = tokens * config.vocab_size
    ends = product(device, tokens, config.dim, config.vocab_size) * (rounds + 1) + stream(
        device, 16 * logits, 4
    )
    if shape.others:
        ends /= parallel.tensor * parallel.pipeline  # otherwise the last stage has it, and the others wait
    passes = shape.passes
    compute = products + pointwise + looking
    held = memory.parameters(config, parallel, shape.others)
    learnt = held if shape.trained is None else shape.trained / parallel.shard
    parts = {
        "matrix products": passes * products,
        "attention": passes * looking,
        "pointwise": passes * pointwise,
        "output layer": passes * ends,
        "optimizer": stream(device, 28 * learnt, 10),
    }
    if shape.muon:
        parts["Muon's iterations"] = (
            flops.newton_schulz(config) / parallel.pipeline / (device.peak * device.reach)
        )
    parts |= _exchanges(config, cluster, shape, tokens, compute, forwards)
    parts["host"] = max(0.0, passes * mine * HOST - sum(parts.values())) + STEP
    busy = sum(seconds for name, seconds in parts.items() if name != "optimizer")
    parts["pipeline bubble"] = busy * (parallel.pipeline - 1) / (passes * shape.stages)
    nodes = max(1.0, cluster.count / min(device.domain, cluster.count))
    parts["stragglers"] = sum(parts.values()) * STRAGGLE * math.log2(nodes)
    each = flops.forward(config, shape.context) * rounds + frozen * flops.square(config) * shape.context
    work = float(shape.batch * shape.context * each)
    return Step({name: seconds for name, seconds in parts.items() if seconds > 0}, work)


@cache
def _kinds(config: ModelConfig) -> dict[int, int]:
    """One layer of each kind -> how many there are of it."""
    found: dict[tuple[bool, bool], list[int]] = {}
    for layer in range(config.layers):
        dense = config.experts is None or layer < config.experts.dense
        found.setdefault((dense, layer in config.windowed), []).append(layer)
    return {layers[0]: len(layers) for layers in found.values()}


def _exchanges(
    config: ModelConfig, cluster: Cluster, shape: Shape, tokens: float, compute: float, forwards: int
) -> dict[str, float]:
    """Seconds of what ranks send each other in a step. `compute`: of one pass, behind which shards travel."""
    parallel, passes = shape.parallel, shape.passes
    found = traffic.exchanged(
        config,
        parallel,
        tokens=tokens,
        passes=passes,
        bf16=shape.bf16,
        recompute=shape.recompute,
        forwards=forwards,
        others=shape.others,
        trained=shape.trained,
    )

    def seconds(*causes: str) -> float:
        return sum(
            one.count * _ring(cluster, one.size, one.ranks, one.inner, one.rounds)
            for one in found
            if one.cause in causes
        )

    travelling, summed = seconds("shards", "gradients"), seconds("copies")
    exposed = max(0.0, travelling - HIDDEN * passes * compute) + (1 - HIDDEN) * travelling
    # gradients of copies can only hide behind the backward pass that they come from
    behind = max((one.count for one in found if one.cause == "copies"), default=1) * compute * 2 / 3
    exposed += max(0.0, summed - HIDDEN * behind) + (1 - HIDDEN) * summed
    sent = 0.0
    for one in found:
        if one.cause == "expert ranks":
            inside = one.ranks * parallel.tensor * parallel.context <= cluster.accelerator.domain
            rate = cluster.accelerator.link if inside else cluster.accelerator.network
            sent += one.count * ((1 - 1 / one.ranks) * one.size / (rate * LINK) + START)
    if shape.others:  # behind the arithmetic of another micro-batch (DeepSeek-V3, section 3.2.1)
        sent = max(0.0, sent - HIDDEN * passes * compute) + (1 - HIDDEN) * sent
    residual = (2 if shape.bf16 else 4) * tokens * config.dim
    handed = 2 * residual / (cluster.accelerator.network * LINK) if parallel.pipeline > 1 else 0.0
    return {
        "tensor ranks": seconds("tensor ranks"),
        "context ranks": seconds("context ranks"),
        "expert ranks": sent,
        "shards and gradients": exposed,
        "pipeline hand-over": passes * shape.stages * handed,
    }
