"""Small random checkpoints of every family, made by transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

COMMON: dict[str, Any] = dict(
    vocab_size=97,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=5,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    bos_token_id=None,
    eos_token_id=96,
    pad_token_id=1,
)
LLAMA3 = dict(
    rope_type="llama3", rope_theta=500_000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
    original_max_position_embeddings=32,
)  # fmt: skip
YARN = dict(rope_type="yarn", rope_theta=10_000.0, factor=4.0, original_max_position_embeddings=16)
MOE = dict(moe_intermediate_size=24, num_experts_per_tok=2)
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama 2": ("llama", {"tie_word_embeddings": False, "num_key_value_heads": 4}),
    "llama 3": ("llama", {"rope_parameters": LLAMA3}),
    "llama, biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, linear positions": (
        "llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
    ),
    "llama, yarn": ("llama", {"rope_parameters": YARN, "head_dim": 16}),
    "llama, yarn, its own attention": (
        "llama", {"rope_parameters": YARN | {"attention_factor": 1.3, "beta_fast": 8.0, "truncate": False}},
    ),
    "mistral, window": ("mistral", {"sliding_window": 7, "head_dim": 16}),
    "mistral, no window": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2, window in upper layers": (
        "qwen2", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2},
    ),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "qwen3, biases": ("qwen3", {"head_dim": 8, "attention_bias": True}),
    "smollm3": ("smollm3", {"no_rope_layer_interval": 4}),
    "granite": (
        "granite",
        {"embedding_multiplier": 3.0, "attention_multiplier": 0.2, "residual_multiplier": 0.5, "logits_scaling": 2.0},
    ),
    "qwen3 moe": ("qwen3_moe", MOE | {"num_experts": 6, "norm_topk_prob": True, "head_dim": 8}),
    "qwen3 moe, dense first": (
        "qwen3_moe", MOE | {"num_experts": 4, "mlp_only_layers": [0], "norm_topk_prob": False, "head_dim": 8},
    ),
    "glm4 moe": (
        "glm4_moe",
        MOE | {"n_routed_experts": 6, "n_shared_experts": 2, "routed_scaling_factor": 1.5, "head_dim": 8,
               "first_k_dense_replace": 1, "partial_rotary_factor": 1.0, "use_qk_norm": True},
    ),
    "glm4 moe, half turned, groups": (
        "glm4_moe",
        MOE | {"n_routed_experts": 8, "n_shared_experts": 1, "n_group": 4, "topk_group": 2, "head_dim": 8},
    ),
    "gemma 3": ("gemma3_text", {"head_dim": 16, "sliding_window": 6, "sliding_window_pattern": 3, "query_pre_attn_scalar": 20}),
    "gemma 3, longer": (
        "gemma3_text",
        {"head_dim": 16, "sliding_window": 6, "query_pre_attn_scalar": 16, "num_hidden_layers": 7,
         "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                             "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}},
    ),
    "gemma 2": (
        "gemma2",
        {"head_dim": 16, "sliding_window": 6, "query_pre_attn_scalar": 24, "final_logit_softcapping": 5.0,
         "attn_logit_softcapping": 2.0},
    ),
    "phi 3": ("phi3", {"sliding_window": None}),
    "phi 3, window": ("phi3", {"sliding_window": 7, "tie_word_embeddings": True}),
    "phi 4 mini's turned part": (
        "phi3", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.75}},
    ),
    "mixtral": ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "olmo 2": ("olmo2", {}),
    "olmo 3": ("olmo3", {"sliding_window": 6}),
    "olmo 3, longer": (
        "olmo3",
        {"sliding_window": 6, "rope_parameters": {"full_attention": YARN | {"rope_theta": 5e5},
                                                  "sliding_attention": {"rope_type": "default", "rope_theta": 5e5}}},
    ),
    "ministral": (
        "ministral",
        {"sliding_window": 6, "head_dim": 16,
         "layer_types": ["full_attention", *["sliding_attention"] * 3, "full_attention"]},
    ),
    "phi 3, longrope": (
        "phi3",
        {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0, 1.1, 1.3, 2.0],
                             "long_factor": [1.0, 2.0, 5.0, 9.0]}, "original_max_position_embeddings": 16},
    ),
    "ministral 3": (
        "ministral3",
        {"head_dim": 16, "rope_parameters": YARN | {"mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.4}},
    ),
    "gpt 2": ("gpt2", {}),
    "gpt 2, exact gelu, wide": ("gpt2", {"n_inner": 80, "activation_function": "gelu", "scale_attn_weights": False}),
    "gpt-oss": (
        "gpt_oss",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8, "sliding_window": 6, "swiglu_limit": 1.0,
         "rope_parameters": YARN | {"truncate": False}},
    ),
    "deepseek 3": (
        "deepseek_v3",
        MOE | {"n_routed_experts": 8, "n_shared_experts": 1, "n_group": 4, "topk_group": 2, "routed_scaling_factor": 2.5,
               "first_k_dense_replace": 1, "kv_lora_rank": 16, "q_lora_rank": 24, "qk_rope_head_dim": 8,
               "qk_nope_head_dim": 12, "v_head_dim": 10, "num_key_value_heads": 4,
               "rope_parameters": YARN | {"mscale": 1.0, "mscale_all_dim": 0.7}},
    ),
    "deepseek 3, lite": (
        "deepseek_v3",
        MOE | {"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "q_lora_rank": None, "kv_lora_rank": 16,
               "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8, "num_key_value_heads": 4},
    ),
}  # fmt: skip


def checkpoint(name: str, folder: Path, **saving: Any) -> Any:
    """Saves a random model of a case to `folder`; returns it. Norms and biases are not what they start as."""
    from transformers import AutoConfig, AutoModelForCausalLM

    family, changes = CASES[name]
    config = AutoConfig.for_model(family, **{**COMMON, **changes})
    torch.manual_seed(len(name))
    model = AutoModelForCausalLM.from_config(config).eval().float()
    with torch.no_grad():
        for tensor in [*model.parameters(), *(b for n, b in model.named_buffers() if "correction" in n)]:
            tensor.mul_(4).add_(0) if tensor.dim() >= 2 else tensor.add_(torch.rand(tensor.shape) - 0.5)
    model.save_pretrained(folder, **saving)
    return model


def logits(model: Any, tokens: Tensor) -> Tensor:
    """(B, T) -> (B, T, V) by the one transformer."""
    positions = torch.arange(tokens.shape[1])[None].expand_as(tokens)
    with torch.no_grad():
        return model({"tokens": tokens, "positions": positions}, {"logits"}).logits


def tokens(rows: int = 2, length: int = 40) -> Tensor:
    return torch.randint(0, 96, (rows, length), generator=torch.Generator().manual_seed(0))
