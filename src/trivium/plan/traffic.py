"""What a rank and others send each other in a training step, by the axes along which they lie (no torch).

`train.parallel` lays a model out so; `trivium plan --dry-run` counts the collectives of the real network and holds these against
them. Sizes are of the whole tensor: what a gather ends with, what a sum begins with, what is exchanged.
"""

from __future__ import annotations

from dataclasses import dataclass

from trivium.model.config import ModelConfig
from trivium.plan import flops, memory
from trivium.recipe.parallel import Parallel


@dataclass(frozen=True)
class Traffic:
    """`count` collectives of `size` bytes each among `ranks` ranks, whose neighbours lie `inner` ranks apart."""

    cause: str
    axes: str
    """Those of `train.distributed` along which the ranks lie: `shard`, `shard x context`."""
    ranks: int
    inner: int
    size: float
    count: float
    rounds: int = 1
    """2: a sum that all get goes through the ring twice."""

    @property
    def bytes(self) -> float:
        return self.size * self.count


def exchanged(
    config: ModelConfig,
    parallel: Parallel,
    *,
    tokens: float,
    passes: int,
    bf16: bool = True,
    recompute: bool = False,
    forwards: float = 3,
    others: bool = False,
    trained: int | None = None,
) -> list[Traffic]:
    """A step of `passes` micro-batches of `tokens` tokens on this rank. `forwards`: work for a token in forward passes, 3 for
    plain training; what is more are passes of models that are only read. `others` and `trained` as in `memory.training`."""
    size = 2 if bf16 else memory.FLOAT
    layers = config.layers / parallel.pipeline
    tensor, context = parallel.tensor, parallel.context
    rounds = forwards + recompute
    residual = size * tokens * config.dim
    found = [
        Traffic(
            "tensor ranks",
            "tensor",
            tensor,
            1,
            residual,
            _sums(config, rounds, recompute, others) / parallel.pipeline * passes,
            rounds=2,
        ),
        # keys and values, gathered forward and again, their gradients summed backward
        Traffic(
            "context ranks",
            "context",
            context,
            tensor,
            size * tokens * context * 2 * config.kv_heads * config.head_dim / tensor,
            rounds * 2 / 3 * layers * passes,
        ),
    ]
    if config.experts is not None:
        sparse = (config.layers - config.experts.dense) / parallel.pipeline
        rows = size * tokens * config.experts.top_k * config.dim  # there and back, each to another rank
        ranks = parallel.expert
        found.append(Traffic("expert ranks", "expert", ranks, 1, rows, rounds * 4 / 3 * sparse * passes))
    found += _weights(config, parallel, passes, size, forwards, others, trained)
    return [one for one in found if one.ranks > 1]


def _sums(config: ModelConfig, rounds: float, recompute: bool, others: bool) -> float:
    """Sums of the residual stream over tensor ranks in all layers: forward, of attention and of the feed-forward layer;
    backward one for each product that they begin with (one for both where a code joins these products). Experts are not split.
    A block that is computed again stops before the last sum, which nothing on the way back needs."""
    if others:
        return rounds * 4 / 3 * config.layers
    dense = config.layers if config.experts is None else config.experts.dense
    ahead = (config.layers + dense) * (rounds - 2) - (dense if recompute else 0)
    return ahead + 3 * config.layers + (2 if config.gated else 1) * dense


def _weights(
    config: ModelConfig,
    parallel: Parallel,
    passes: int,
    size: int,
    forwards: float,
    others: bool,
    trained: int | None,
) -> list[Traffic]:
    """Weights gathered and gradients summed. Blocks are gathered forward and backward; what is outside them stays in between."""
    whole = memory.parameters(config, parallel.model_copy(update={"shard": 1, "context": 1}), others)
    learnt = whole if trained is None else float(trained)
    tied = config.tie_embeddings or parallel.pipeline > 1
    outside = flops.embeddings(config, tied=tied) / (parallel.tensor if others else 1)
    copies, inner = parallel.data // parallel.expert, parallel.tensor
    if parallel.shard > 1:
        # ranks of one row hold shares of the weights, too
        ranks, axes = (
            parallel.shard * parallel.context,
            _joined(shard=parallel.shard, context=parallel.context),
        )
        gathered = size * ((whole - outside) * (2 if forwards > 2 else 1) + outside)
        return [
            Traffic("shards", axes, ranks, inner, gathered, passes),
            Traffic("gradients", axes, ranks, inner, memory.FLOAT * learnt, passes),
            # FSDP sums the shares of copies after each pass, other codes after the last
            Traffic(
                "copies",
                "data",
                copies,
                inner * ranks,
                memory.FLOAT * learnt / ranks,
                1 if others else passes,
                rounds=2,
            ),
        ]
    ranks = copies * parallel.context
    shared = learnt
    found = []
    if parallel.expert > 1 and config.experts is not None:
        experts = (
            (config.layers - config.experts.dense)
            / parallel.pipeline
            * flops.routed(config)
            / parallel.expert
        )
        shared = whole - experts
        axes = _joined(data=copies, context=parallel.context)
        away = inner * parallel.expert
        found.append(Traffic("copies", axes, ranks, away, memory.FLOAT * experts, 1, rounds=2))
    axes = _joined(data=copies, expert=parallel.expert, context=parallel.context)
    found.append(Traffic("copies", axes, ranks * parallel.expert, inner, memory.FLOAT * shared, 1, rounds=2))
    return found


def _joined(**sizes: int) -> str:
    return " x ".join(axis for axis, size in sizes.items() if size > 1)
