"""Bytes that training takes on each rank of a layout: weights, gradients, the optimizer's state and activations (no torch).

Master weights, gradients and moments are float32. Activations are what the backward pass of an eager block needs, counted
operation by operation (as Korthikanti et al. 2022, section 4, count GPT's); compiled blocks keep less, so this is a bound.
tests/plan/test_memory.py holds the counts against what autograd keeps.
"""

from __future__ import annotations

from dataclasses import dataclass

from trivium.model.config import ModelConfig
from trivium.plan import flops
from trivium.recipe.parallel import Parallel

FLOAT = 4
LOGITS = 2**25
"""Most logits held at once (`model.heads.CHUNK`)."""


@dataclass(frozen=True)
class Memory:
    """Bytes on the rank that holds most."""

    weights: float
    gradients: float
    optimizer: float
    activations: float

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer + self.activations


def training(
    config: ModelConfig,
    parallel: Parallel,
    *,
    rows: int,
    context: int,
    bf16: bool = False,
    recompute: bool = False,
    trained: int | None = None,
) -> Memory:
    """Of one micro-batch of `rows` rows of `context` tokens, with AdamW. `trained`: parameters of adapters, None means all."""
    held = _parameters(config, parallel)
    learnt = held if trained is None else float(trained)
    return Memory(
        weights=FLOAT * held,
        gradients=FLOAT * learnt,
        optimizer=2 * FLOAT * learnt,
        activations=_activations(config, parallel, rows * context / parallel.context, bf16, recompute),
    )


def _parameters(config: ModelConfig, parallel: Parallel) -> float:
    """Of the first stage of a pipeline, which holds the embeddings beside its layers."""
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
    return (inside + flops.embeddings(config, tied=tied) + flops.norm_size(config)) / shards


def _activations(
    config: ModelConfig, parallel: Parallel, tokens: float, bf16: bool, recompute: bool
) -> float:
    size = 2 if bf16 else FLOAT
    layers = -(-config.layers // parallel.pipeline)
    in_flight = parallel.pipeline  # micro-batches that the first stage has sent on and not had back
    block = tokens * size * _kept(config, parallel)
    between = tokens * size * config.dim
    blocks = in_flight * layers * between + block if recompute else in_flight * layers * block
    logits = min(tokens * config.vocab_size, LOGITS)
    last = FLOAT * 2 * logits + FLOAT * 3 * tokens * config.dim  # logits and their gradient; the last norm
    return blocks + last


def _kept(config: ModelConfig, parallel: Parallel) -> float:
    """Elements that one block keeps of one token: two norms of three vectors each; queries, keys, values and what attention
    gives; gate, its SiLU, up and their product. `context` ranks keep keys and values of the whole row."""
    heads, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    attention = 2 * heads + 2 * keys * parallel.context
    experts = config.experts
    width = config.hidden if experts is None else experts.hidden * (experts.top_k + experts.shared)
    return 6 * config.dim + (attention + 4 * width) / parallel.tensor
