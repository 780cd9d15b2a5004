"""Bytes that training takes on each rank of a layout, by cause (no torch).

Master weights, gradients and moments are float32. Activations are what the backward pass of an eager block needs, counted
operation by operation (as Korthikanti et al. 2022, section 4, count GPT's); compiled blocks keep less, so this is a bound.
Not all causes peak at once: the moments of a step at which most can be held are counted each, and the fullest one is given
(`_moments`). tests/plan/test_memory.py holds the counts against what autograd keeps, `trivium plan --dry-run` against a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from trivium.model.config import ModelConfig
from trivium.plan import flops
from trivium.recipe.parallel import Parallel

FLOAT = 4
LOGITS = 2**25
"""Most logits held at once (`model.heads.CHUNK`)."""

COPIES, Z_COPIES = 3, 5
"""Of the logits, at most at once, in float32: their logarithms, the gradient of these and of the logits; with a z-loss the
logits, what its softmax is made from, and the gradients of both terms (`trivium plan --dry-run` counts them)."""


@dataclass(frozen=True)
class Memory:
    """Bytes on the rank that holds most."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    buffers: float = 0.0
    """Weights in 16 bits beside the float32 ones, or gathered from the shards; what is sent and received."""
    frozen: float = 0.0
    """Models that are only read: a reference, a teacher, a reward model."""
    cache: float = 0.0
    """Keys and values of replies that are being written. Nothing is trained meanwhile: it takes the place of activations."""

    @property
    def total(self) -> float:
        held = self.weights + self.gradients + self.optimizer + self.buffers + self.frozen
        return held + max(self.activations + self.logits, self.cache)

    def parts(self) -> dict[str, float]:
        """Cause -> bytes, without what is not there."""
        return {cause: size for cause, size in vars(self).items() if size}


def training(
    config: ModelConfig,
    parallel: Parallel,
    *,
    rows: int,
    context: int,
    bf16: bool = False,
    recompute: bool = False,
    trained: int | None = None,
    int8: int = 0,
    others: bool = False,
    pointwise: bool = False,
    z_loss: bool = False,
    stages: int = 1,
) -> Memory:
    """Of one micro-batch of `rows` rows of `context` tokens, with AdamW. `trained`: parameters of adapters, None means all;
    `int8`: of the model's numbers, those that are kept in one byte.
    What only other codes do: `others`, tensor ranks split embeddings and output layer too, and copies share the float32 weights
    and moments (ZeRO-1); `pointwise`, what is no product is computed again; `stages` of the pipeline on each rank."""
    held = parameters(config, parallel, others)
    part = held / parameters(config, Parallel(), others)  # that this rank has
    learnt = held if trained is None else trained * part
    tokens = rows * context / parallel.context
    copies = parallel.data // parallel.expert if others else 1
    size, frozen = 2 if bf16 else FLOAT, trained is not None
    work = Work(config, parallel, tokens, context, size, recompute, others, pointwise, z_loss, frozen, stages)
    activations, logits, buffers = max(_moments(work), key=sum)
    return Memory(
        weights=(FLOAT * (held + learnt * frozen) - (FLOAT - 1) * int8 * part) / copies,
        gradients=FLOAT * learnt,
        optimizer=2 * FLOAT * learnt / copies,
        activations=activations,
        logits=logits,
        buffers=buffers,
    )


class Work(NamedTuple):
    """A micro-batch of `tokens` tokens on one rank, in rows of `context` tokens; `size` bytes of a number."""

    config: ModelConfig
    parallel: Parallel
    tokens: float
    context: int
    size: int
    recompute: bool
    others: bool
    pointwise: bool
    z_loss: bool
    frozen: bool
    """Only adapters are trained: what a weight's own gradient takes is not there."""
    stages: int
    """Of the pipeline, on each rank."""


def _moments(work: Work) -> list[tuple[float, float, float]]:
    """Bytes of activations, logits, and buffers: at the output layer; early and late on the way back through a block; and where
    the gradients of embeddings and output layer are summed at the end. Of a pipeline, on the first rank, which holds
    micro-batches that were sent on, and on the last one, which has the output layer."""
    ranks = work.parallel.pipeline
    if ranks == 1:
        return _moments_of(work, work.config.layers, last=True)
    layers = -(-work.config.layers // ranks)
    # interleaved stages begin more micro-batches before the first comes back (Narayanan et al. 2021, section 2.2)
    early = layers * (ranks + (ranks - 1) / work.stages if work.stages > 1 else ranks)
    return _moments_of(work, early, last=False) + _moments_of(work, layers, last=True)


def _moments_of(work: Work, layers: float, last: bool) -> list[tuple[float, float, float]]:
    """Those of a rank that keeps what `layers` blocks need for the way back."""
    config, parallel, tokens, size = work.config, work.parallel, work.tokens, work.size
    inside, outside, copied = _weights(work)
    learns = 0 if work.frozen else 1
    waiting = learns * size * flops.embeddings(config, tied=True) / (parallel.tensor if work.others else 1)
    # the output layer's gradient, while that of the next chunk of the logits is added: the sum, the chunk's and the new sum
    added = 2 * waiting if tokens * config.vocab_size > LOGITS and not work.others else 0.0
    sent = _sent(work)
    logits = FLOAT * (Z_COPIES if work.z_loss else COPIES) * min(tokens * config.vocab_size, LOGITS)
    if not last:
        added = logits = 0.0
    block, between = tokens * size * _kept(work), tokens * size * config.dim
    blocks = layers * (between if work.recompute else block)
    mask = (
        0.0 if work.others else tokens * work.context
    )  # one byte each, and none in fused kernels that count places
    again = block if work.recompute else 0.0
    wide = (
        2 * tokens * size * active_width(config) / parallel.tensor
    )  # gradients of what the last product took in
    norm = FLOAT * 3 * tokens * config.dim
    if parallel.shard == 1:
        # of a tensor that is used twice, the first gradient waits for the second
        held = copied + sent + (waiting if config.tie_embeddings else 0.0)
        return [
            (blocks + norm + mask, logits, held),
            (blocks + norm + mask, 0.0, held + added),
            (blocks + again + wide + mask, 0.0, held),
        ]
    held = size * outside + waiting + sent
    part = learns * _share_of_last(config) * size * inside
    return [
        (blocks + norm + mask, logits, held + size * inside),
        (blocks + norm + mask, 0.0, held + size * inside + added),
        # this block and the next one, the sum of the one before on its way, and the block's own first gradient
        (blocks + again + wide + mask, 0.0, held + (2 * size + learns * FLOAT) * inside + part),
        (blocks + between + mask, 0.0, held + (2 * size + learns * (size + FLOAT)) * inside),
        (mask, 0.0, learns * (size + FLOAT) * outside),
    ]


def _weights(work: Work) -> tuple[float, float, float]:
    """Whole weights of one block and of what is outside the blocks, in numbers; bytes of autocast's copies where none is cut."""
    config, parallel = work.config, work.parallel
    whole = parameters(config, parallel.model_copy(update={"shard": 1}), work.others)
    tied = config.tie_embeddings or parallel.pipeline > 1
    outside = flops.embeddings(config, tied=tied) / (parallel.tensor if work.others else 1)
    inside = (whole - outside) / -(-config.layers // parallel.pipeline)
    return inside, outside, work.size * whole if work.size < FLOAT else 0.0


def _sent(work: Work) -> float:
    """What tensor and expert ranks exchange."""
    config, parallel = work.config, work.parallel
    rows = 0
    if parallel.tensor > 1:
        rows += 1
    if parallel.expert > 1 and config.experts is not None:
        rows += config.experts.top_k
    return 2 * work.size * work.tokens * rows * config.dim


def active_width(config: ModelConfig) -> int:
    """Of the feed-forward layer, of all the experts that a token goes to."""
    experts = config.experts
    return config.hidden if experts is None else experts.hidden * (experts.top_k + experts.shared)


def _share_of_last(config: ModelConfig) -> float:
    """Of a dense block's weights, those of its last product: where a block has experts, their gradients come one by one."""
    if config.experts is not None:
        return 0.0
    return config.dim * config.hidden / flops.layer_matrices(config, config.layers - 1)


def written(config: ModelConfig, rows: int, places: int, bf16: bool = False) -> float:
    """Bytes of the keys and values of `rows` rows of `places` tokens that a model is writing."""
    widths = sum(heads * width for heads, width in config.cached)
    return float((2 if bf16 else FLOAT) * config.layers * rows * places * widths)


@cache
def parameters(config: ModelConfig, parallel: Parallel, others: bool = False) -> float:
    """Numbers on a rank: of the first stage of a pipeline, which holds the embeddings beside its layers."""
    layers = -(-config.layers // parallel.pipeline)
    dim, inside = config.dim, 0.0
    for layer in range(config.layers - layers, config.layers):  # dense layers come first and are smaller
        matrices = float(flops.layer_matrices(config, layer))
        experts = config.experts
        if experts is not None and layer >= experts.dense:
            routed = 3 * dim * experts.hidden * experts.count
            matrices += routed / parallel.expert - routed
            split = flops.layer_matrices(config, layer) - dim * (
                3 * (experts.count + experts.shared) * experts.hidden + experts.count
            )
        else:
            split = int(matrices)
        inside += matrices - split + split / parallel.tensor + flops.layer_vectors(config, layer)
    tied = config.tie_embeddings or parallel.pipeline > 1
    shards = parallel.shard * (parallel.context if parallel.shard > 1 else 1)
    outside = flops.embeddings(config, tied=tied) / (parallel.tensor if others else 1)
    return (inside + outside + flops.norm_size(config)) / shards


def _kept(work: Work) -> float:
    """Elements that one block keeps of one token: two norms of three vectors each; queries, keys, values and what attention
    gives; gate, its SiLU, up and their product, or up and its GELU; attention's mask. `context` ranks keep keys and values of
    the whole row."""
    config, parallel = work.config, work.parallel
    heads, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    attention = 2 * heads + 2 * keys * parallel.context
    experts, width = config.experts, active_width(config)
    sorted_rows = 0 if experts is None else 2 * experts.top_k * config.dim  # to the experts and back
    if work.pointwise:  # the inputs of the products and of attention
        return 2 * config.dim + sorted_rows + (attention + 2 * width) / parallel.tensor
    # two of each norm are float32 (`model.norms`); fused ones keep 16 bits
    norms = 10 if work.size < FLOAT and not work.others else 6
    mask = 0 if work.others else work.context  # of documents: a number for each pair of places
    inner = 4 if config.gated else 2
    return norms * config.dim + sorted_rows + mask + (attention + inner * width) / parallel.tensor
