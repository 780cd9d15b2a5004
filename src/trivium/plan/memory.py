"""Bytes that training takes on each rank of a layout, by cause (no torch).

Master weights, gradients and moments are float32. Activations are what the backward pass of an eager block needs, counted
operation by operation (as Korthikanti et al. 2022, section 4, count GPT's); compiled blocks keep less, so this is a bound.
tests/plan/test_memory.py holds the counts against what autograd keeps.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

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
    others: bool = False,
    pointwise: bool = False,
    z_loss: bool = False,
) -> Memory:
    """Of one micro-batch of `rows` rows of `context` tokens, with AdamW. `trained`: parameters of adapters, None means all.
    What only other codes do: `others`, tensor ranks split embeddings and output layer too, and copies share the float32 weights
    and moments (ZeRO-1); `pointwise`, what is no product is computed again."""
    held = parameters(config, parallel, others)
    learnt = held if trained is None else float(trained)
    tokens = rows * context / parallel.context
    copies = parallel.data // parallel.expert if others else 1
    logits = FLOAT * (Z_COPIES if z_loss else COPIES) * min(tokens * config.vocab_size, LOGITS)
    return Memory(
        weights=FLOAT * held / copies,
        gradients=FLOAT * learnt,
        optimizer=2 * FLOAT * learnt / copies,
        activations=_activations(config, parallel, tokens, bf16, recompute, (others, pointwise), logits),
        logits=logits,
        buffers=_buffers(config, parallel, tokens, bf16, others),
    )


def _buffers(config: ModelConfig, parallel: Parallel, tokens: float, bf16: bool, others: bool) -> float:
    """Shards: the block at work and the next one, whole, with the gradient of one, beside embeddings and head, which stay whole
    from the first pass to the last. Otherwise autocast's copies of the matrices. Tensor and expert ranks: what they exchange."""
    size = 2 if bf16 else FLOAT
    whole = parallel.model_copy(update={"shard": 1})
    tied = config.tie_embeddings or parallel.pipeline > 1
    outside = flops.embeddings(config, tied=tied) / (parallel.tensor if others else 1)
    layers = -(-config.layers // parallel.pipeline)
    inside = parameters(config, whole, others) - outside
    total = 0.0
    if parallel.shard > 1:
        total += (2 * size + FLOAT) * inside / layers + (size + FLOAT) * outside
    elif bf16:
        total += size * parameters(config, whole, others)
    if parallel.tensor > 1:
        total += 2 * size * tokens * config.dim
    if parallel.expert > 1 and config.experts is not None:
        total += 2 * size * tokens * config.experts.top_k * config.dim
    return total


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


def _activations(
    config: ModelConfig,
    parallel: Parallel,
    tokens: float,
    bf16: bool,
    recompute: bool,
    fused: tuple[bool, bool],
    logits: float,
) -> float:
    """Beside `logits` bytes of the output layer. A block computed again takes their place, so only what is more counts."""
    size = 2 if bf16 else FLOAT
    layers = -(-config.layers // parallel.pipeline)
    in_flight = parallel.pipeline  # micro-batches that the first stage has sent on and not had back
    block = tokens * size * _kept(config, parallel, bf16, *fused)
    between = tokens * size * config.dim
    blocks = in_flight * layers * (between if recompute else block)
    again = max(0.0, block - logits) if recompute else 0.0
    return blocks + again + FLOAT * 3 * tokens * config.dim  # the last norm


def _kept(config: ModelConfig, parallel: Parallel, bf16: bool, others: bool, pointwise: bool) -> float:
    """Elements that one block keeps of one token: two norms of three vectors each; queries, keys, values and what attention
    gives; gate, its SiLU, up and their product. `context` ranks keep keys and values of the whole row."""
    heads, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    attention = 2 * heads + 2 * keys * parallel.context
    experts = config.experts
    width = config.hidden if experts is None else experts.hidden * (experts.top_k + experts.shared)
    sorted_rows = 0 if experts is None else 2 * experts.top_k * config.dim  # to the experts and back
    if pointwise:  # the inputs of the products and of attention
        return 2 * config.dim + sorted_rows + (attention + 2 * width) / parallel.tensor
    norms = (
        10 if bf16 and not others else 6
    )  # two of each are float32 (`model.norms`); fused ones keep 16 bits
    return norms * config.dim + sorted_rows + (attention + 4 * width) / parallel.tensor
