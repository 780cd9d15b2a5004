"""Parameters and floating-point operations of the transformer, from its config alone (no torch).

A matrix product of (m, k) by (k, n) is 2 m k n operations, so each weight of a matrix costs 2 per token.
Attention adds the two products q k' and p v: 2 x 2 x T x H x E per token and layer for rows of T tokens. The
whole square is counted although the mask hides half of it, which is the convention of PaLM (Chowdhery et al.
2022, appendix B, "12 L H Q T" for forward and backward) and of most reported utilisations. The backward pass
forms two products for each one of the forward pass (Kaplan et al. 2020, section 2.1), so training costs
three forward passes. Looking up embeddings, norms, rotary positions and softmax are left out: they are not
matrix products and cost well under a hundredth. The output layer is counted, tied or not: its product is
made in both cases.
"""

from __future__ import annotations

from functools import cache

from trivium.model.config import ModelConfig
from trivium.recipe.network import Adapter


def attention_matrices(config: ModelConfig) -> int:
    latent = config.latent
    if latent is not None:
        queries = config.heads * config.head_dim * (latent.q_rank or config.dim) + config.dim * (
            latent.q_rank or 0
        )
        narrow = config.dim * (latent.kv_rank + latent.turned)
        keys = latent.kv_rank * config.heads * (latent.plain + latent.value)
        return queries + narrow + keys + config.heads * latent.value * config.dim
    queries = config.dim * config.heads * config.head_dim
    keys = config.dim * config.kv_heads * config.head_dim
    return 2 * queries + 2 * keys


def layer_matrices(config: ModelConfig, layer: int = 0, *, active: bool = False) -> int:
    """Weights in the matrices of a layer: those of attention, and three per SwiGLU (two without a gate).

    Of a mixture of experts, all; or the router, `top_k` experts and the shared ones, which are `active` for a token.
    """
    experts = config.experts
    if experts is None or layer < experts.dense:
        return attention_matrices(config) + (3 if config.gated else 2) * config.dim * config.hidden
    used = (experts.top_k if active else experts.count) + experts.shared
    return attention_matrices(config) + config.dim * (3 * used * experts.hidden + experts.count)


def newton_schulz(config: ModelConfig) -> float:
    """FLOP of one step of Muon beside the gradients: five iterations over each matrix inside the blocks. Of m x n, m <= n, each
    takes 4 m^2 n + 2 m^3 (Jordan et al. 2024): as much as the tokens of a small batch."""

    def of(rows: int, columns: int, count: float = 1) -> float:
        narrow, wide = sorted((rows, columns))
        return count * 5 * (4 * narrow**2 * wide + 2 * narrow**3)

    dim, experts, gates = config.dim, config.experts, 2 if config.gated else 1
    if config.latent is not None:
        attention = of(dim, max(1, attention_matrices(config) // dim))
    else:
        attention = 2 * of(dim, config.heads * config.head_dim) + 2 * of(
            dim, config.kv_heads * config.head_dim
        )
    work = config.layers * attention
    for layer in range(config.layers):
        if experts is None or layer < experts.dense:
            work += of(dim, config.hidden, gates + 1)
        else:
            work += of(dim, experts.hidden, 3 * (experts.count + experts.shared))
    return work


def routed(config: ModelConfig) -> int:
    """Numbers in the experts of a layer that tokens are sent to."""
    experts = config.experts
    if experts is None:
        return 0
    return experts.count * (
        3 * config.dim * experts.hidden + experts.bias * (2 * experts.hidden + config.dim)
    )


def layer_vectors(config: ModelConfig, layer: int = 0) -> int:
    """Numbers in the norms, biases and sinks of a layer."""
    count = (4 if config.norms == "both" else 2) * norm_size(config)
    heads, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    latent, experts = config.latent, config.experts
    if latent is not None:
        count += latent.kv_rank + (latent.q_rank or 0)
        count += (latent.kv_rank + latent.turned + (latent.q_rank or 0)) * config.qkv_bias
    else:
        if config.qk_norm:
            count += heads + keys if config.qk_norm_whole else 2 * config.head_dim
        count += (heads + 2 * keys) * config.qkv_bias
    count += config.dim * config.output_bias + config.heads * config.sinks
    if experts is not None and layer >= experts.dense:
        return count + experts.count * (1 + 2 * experts.hidden + config.dim) * experts.bias
    return count + ((1 + config.gated) * config.hidden + config.dim) * config.mlp_bias


def norm_size(config: ModelConfig) -> int:
    """Numbers in a norm of the residual stream."""
    return (2 if config.layer_norm else 1) * config.dim


def embeddings(config: ModelConfig, *, tied: bool | None = None) -> int:
    """Numbers in the embeddings, learned positions and the output matrix where it is another one."""
    tied = config.tie_embeddings if tied is None else tied
    places = config.context * config.dim if config.learned_positions else 0
    return config.vocab_size * config.dim * (1 if tied else 2) + places


def square(config: ModelConfig) -> int:
    """FLOPs of attention's two products for one token that looks at one place."""
    value = config.head_dim if config.latent is None else config.latent.value
    return 2 * config.layers * config.heads * (config.head_dim + value)


@cache
def _layers(config: ModelConfig, *, active: bool = False) -> int:
    return sum(layer_matrices(config, layer, active=active) for layer in range(config.layers))


def parameters(config: ModelConfig) -> int:
    """Number of parameters; a tied embedding counts once."""
    vectors = sum(layer_vectors(config, layer) for layer in range(config.layers))
    return embeddings(config) + _layers(config) + vectors + norm_size(config)


def forward(config: ModelConfig, context: int) -> int:
    """FLOPs of one token in the forward pass, in rows of `context` tokens."""
    matrices = _layers(config, active=True) + config.vocab_size * config.dim
    return 2 * matrices + square(config) * context


def training(config: ModelConfig, context: int) -> int:
    """FLOPs of one token in the forward and backward pass: 6 N + 12 L H E T, N without embedding look-ups."""
    return 3 * forward(config, context)


def adapting(config: ModelConfig, context: int) -> int:
    """FLOPs of one token where only adapters are trained: frozen weights need no product for their own gradient."""
    return 2 * forward(config, context) + square(config) * context


def adapted(config: ModelConfig, adapter: Adapter) -> tuple[int, int]:
    """Numbers that `adapter` trains beside the layers that it names (rank x (inputs + outputs) each, with DoRA a magnitude for
    each output), and numbers in those of them that lie in blocks. Where blocks have experts, only attention gets adapters."""
    dim, queries, keys = config.dim, config.heads * config.head_dim, config.kv_heads * config.head_dim
    inside = {
        "q_proj": (dim, queries),
        "k_proj": (dim, keys),
        "v_proj": (dim, keys),
        "o_proj": (queries, dim),
    }
    if config.experts is None:
        inside |= {"up_proj": (dim, config.hidden), "down_proj": (config.hidden, dim)}
        inside |= {"gate_proj": (dim, config.hidden)} if config.gated else {}
    ends = {"embed_tokens": (config.vocab_size, dim), "lm_head": (dim, config.vocab_size)}
    layers = [shape for name, shape in inside.items() if name in adapter.targets]
    outside = [shape for name, shape in ends.items() if name in adapter.targets]
    every = layers * config.layers + outside
    trained = sum(adapter.rank * (rows + columns) + adapter.dora * columns for rows, columns in every)
    return trained, config.layers * sum(rows * columns for rows, columns in layers)


def step(
    config: ModelConfig, tokens: int, squares: int, *, frozen: bool = False, critic: bool = False
) -> float:
    """FLOPs of a training step over `tokens` tokens whose documents' squared lengths sum to `squares`.

    `frozen`: only adapters are trained. `critic`: another trunk of the same shape is trained on the same tokens, with one number
    in place of the output layer (ppo). Without it, equals `training` (or `adapting`) times the tokens where each row is one
    document.
    """
    trunk, head = 2 * _layers(config, active=True), 2 * config.vocab_size * config.dim
    trunks = 2 if critic else 1
    return (2 if frozen else 3) * (trunks * trunk + head) * tokens + 3 * trunks * square(config) * squares


def utilisation(tokens_per_second: float, flops_per_token: float, peak: float) -> float:
    """Model FLOPs utilisation: the share of the `peak` (FLOP/s) that a throughput uses."""
    return tokens_per_second * flops_per_token / peak
