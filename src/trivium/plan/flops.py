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

from trivium.model.config import ModelConfig


def _attention_matrices(config: ModelConfig) -> int:
    queries = config.dim * config.heads * config.head_dim
    keys = config.dim * config.kv_heads * config.head_dim
    return 2 * queries + 2 * keys


def layer_matrices(config: ModelConfig, layer: int = 0, *, active: bool = False) -> int:
    """Weights in the matrices of a layer: q, k, v, o of attention and three per SwiGLU.

    Of a mixture of experts, all; or the router, `top_k` experts and the shared ones, which are `active` for a token.
    """
    experts = config.experts
    if experts is None or layer < experts.dense:
        return _attention_matrices(config) + 3 * config.dim * config.hidden
    used = (experts.top_k if active else experts.count) + experts.shared
    return _attention_matrices(config) + config.dim * (3 * used * experts.hidden + experts.count)


def _layers(config: ModelConfig, *, active: bool = False) -> int:
    return sum(layer_matrices(config, layer, active=active) for layer in range(config.layers))


def parameters(config: ModelConfig) -> int:
    """Number of parameters; a tied embedding counts once."""
    small = 2 * config.dim + (2 * config.head_dim if config.qk_norm else 0)
    if config.qkv_bias:
        small += (config.heads + 2 * config.kv_heads) * config.head_dim
    small += config.dim if config.output_bias else 0
    small += 2 * config.hidden + config.dim if config.mlp_bias else 0
    embeddings = config.vocab_size * config.dim * (1 if config.tie_embeddings else 2)
    return embeddings + _layers(config) + config.layers * small + config.dim


def forward(config: ModelConfig, context: int) -> int:
    """FLOPs of one token in the forward pass, in rows of `context` tokens."""
    matrices = _layers(config, active=True) + config.vocab_size * config.dim
    attention = 2 * config.layers * config.heads * config.head_dim * context
    return 2 * (matrices + attention)


def training(config: ModelConfig, context: int) -> int:
    """FLOPs of one token in the forward and backward pass: 6 N + 12 L H E T, N without embedding look-ups."""
    return 3 * forward(config, context)


def adapting(config: ModelConfig, context: int) -> int:
    """FLOPs of one token where only adapters are trained: frozen weights need no product for their own gradient."""
    attention = 2 * config.layers * config.heads * config.head_dim * context
    return 2 * forward(config, context) + 2 * attention


def step(config: ModelConfig, tokens: int, squares: int, *, frozen: bool = False) -> float:
    """FLOPs of a training step over `tokens` tokens whose documents' squared lengths sum to `squares`.

    `frozen`: only adapters are trained. Equals `training` (or `adapting`) times the tokens where each row is one document.
    """
    per_token = forward(config, 0)
    per_square = 4 * config.layers * config.heads * config.head_dim
    return (2 if frozen else 3) * per_token * tokens + 3 * per_square * squares


def utilisation(tokens_per_second: float, flops_per_token: float, peak: float) -> float:
    """Model FLOPs utilisation: the share of the `peak` (FLOP/s) that a throughput uses."""
    return tokens_per_second * flops_per_token / peak
