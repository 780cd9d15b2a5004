"""What each family says in `config.json` otherwise than Llama does: the words of the rows in `families`.

`read_...` take a config.json with the family's defaults filled in; `write_...` give what the family's file says beside what all
say.
"""

from __future__ import annotations

import math
from typing import Any

from trivium.errors import ArtifactError
from trivium.model import rope_json
from trivium.model.config import Experts, Latent, ModelConfig, Rope
from trivium.model.rope import yarn_factor
from trivium.model.rope_json import FULL, SLIDING

Raw = dict[str, Any]

GEMMA2: Raw = {
    "hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": True, "rms_norm_eps": 1e-6, "head_dim": 256,
    "query_pre_attn_scalar": 256, "sliding_window": 4096, "final_logit_softcapping": 30.0,
    "attn_logit_softcapping": 50.0,
}  # fmt: skip
GEMMA3: Raw = GEMMA2 | {
    "final_logit_softcapping": None, "attn_logit_softcapping": None, "rope_local_base_freq": 10_000.0,
    "sliding_window_pattern": 6, "vocab_size": 262_208, "num_attention_heads": 8, "num_key_value_heads": 4,
    "max_position_embeddings": 131_072,
}  # fmt: skip
GPT2: Raw = {
    "activation_function": "gelu_new", "tie_word_embeddings": True, "rms_norm_eps": 1e-5, "intermediate_size": None,
}  # fmt: skip
GPT2_KEYS = {
    "n_embd": "hidden_size", "n_layer": "num_hidden_layers", "n_head": "num_attention_heads",
    "n_positions": "max_position_embeddings", "n_inner": "intermediate_size", "layer_norm_epsilon": "rms_norm_eps",
}  # fmt: skip
DEEPSEEK_V3: Raw = {
    "rms_norm_eps": 1e-6, "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_rope_head_dim": 64, "v_head_dim": 128,
    "qk_nope_head_dim": 128, "n_group": 8, "topk_group": 4, "first_k_dense_replace": 3, "n_shared_experts": 1,
    "routed_scaling_factor": 2.5, "norm_topk_prob": True, "rope_interleave": True,
}  # fmt: skip
GPT_OSS: Raw = {
    "rms_norm_eps": 1e-5, "attention_bias": True, "head_dim": 64, "sliding_window": 128, "swiglu_alpha": 1.702,
    "swiglu_limit": 7.0,
}  # fmt: skip


def nothing_read(raw: Raw) -> Raw:
    return {}


def nothing_written(config: ModelConfig) -> Raw:
    return {}


def refuse(what: str, fix: str = "use another checkpoint") -> ArtifactError:
    return ArtifactError(f"the checkpoint {what}", fix=fix)


def write_ropes(config: ModelConfig, *, nested: bool, part: bool) -> Raw:
    """`rope_parameters`, one block or two."""
    everywhere = Rope(config.rope_theta, config.rope_scaling)
    block = rope_json.write(everywhere, config, part=part)
    if not nested:
        return block
    return {FULL: block, SLIDING: rope_json.write(config.window_rope or everywhere, config)}


# windows


def write_layer_types(config: ModelConfig) -> Raw:
    kinds = {True: SLIDING, False: FULL}
    layers = [kinds[layer in config.windowed] for layer in range(config.layers)]
    return {"sliding_window": config.window, "layer_types": layers}


def write_windows(config: ModelConfig) -> Raw:
    return {"use_sliding_window": config.window is not None, **write_layer_types(config)}


def write_window_everywhere(config: ModelConfig) -> Raw:
    return {"sliding_window": config.window}


def read_window_everywhere(raw: Raw) -> Raw:
    """Mistral, Phi-3: every layer has the window, where there is one."""
    if raw.get("sliding_window") is None:
        return {}
    return {"window": raw["sliding_window"], "windowed": frozenset(range(raw["num_hidden_layers"]))}


def _windows(raw: Raw, every: int) -> Raw:
    """The layers that `layer_types` names; without it, all but each `every`-th (0: all)."""
    layers = range(int(raw["num_hidden_layers"]))
    kinds = raw.get("layer_types") or [FULL if every and (i + 1) % every == 0 else SLIDING for i in layers]
    if unknown := sorted(set(kinds) - {FULL, SLIDING}):
        raise refuse(f"has layers of the kind {unknown[0]!r}")
    windowed = frozenset(layer for layer in layers if kinds[layer] == SLIDING)
    return {"window": raw.get("sliding_window"), "windowed": windowed}


def _qwen_windows(raw: Raw) -> Raw:
    window = raw.get("sliding_window")
    if not raw.get("use_sliding_window") or window is None:
        return {}
    layers, first = int(raw["num_hidden_layers"]), raw.get("max_window_layers", 28)
    kinds = raw.get("layer_types") or [SLIDING if layer >= first else FULL for layer in range(layers)]
    return _windows(raw | {"layer_types": kinds}, 0)


def _no_windows(raw: Raw) -> None:
    if _qwen_windows(raw).get("windowed"):
        raise ArtifactError(
            f"the checkpoint is a {raw['model_type']} with sliding windows", fix="use one without windows"
        )


# dense families


def read_qwen2(raw: Raw) -> Raw:
    return {"qkv_bias": True, **_qwen_windows(raw)}


def read_qwen3(raw: Raw) -> Raw:
    return {"qk_norm": True, **_qwen_windows(raw)}


def read_smollm3(raw: Raw) -> Raw:
    _no_windows(raw)
    layers, turned = range(int(raw["num_hidden_layers"])), raw.get("no_rope_layers")
    if turned is None:
        every = raw.get("no_rope_layer_interval", 4)
        turned = [int((layer + 1) % every != 0) for layer in layers]
    return {"no_rope": frozenset(layer for layer in layers if not turned[layer])}


def write_smollm3(config: ModelConfig) -> Raw:
    turned = [int(layer not in config.no_rope) for layer in range(config.layers)]
    return {"no_rope_layers": turned, "layer_types": [FULL] * config.layers}


def read_granite(raw: Raw) -> Raw:
    return {
        "embedding_scale": float(raw.get("embedding_multiplier", 1.0)),
        "residual_scale": float(raw.get("residual_multiplier", 1.0)),
        "logit_scale": 1 / float(raw.get("logits_scaling", 1.0)),
        "attention_scale": float(raw.get("attention_multiplier", 1.0)),
    }


def write_granite(config: ModelConfig) -> Raw:
    return {
        "embedding_multiplier": config.embedding_scale,
        "residual_multiplier": config.residual_scale,
        "logits_scaling": 1 / config.logit_scale,
        "attention_multiplier": config.attention_scale or config.head_dim**-0.5,
    }


def read_ministral(raw: Raw) -> Raw:
    return _windows(raw, 0) if raw.get("sliding_window") is not None else {}


def read_ministral3(raw: Raw) -> Raw:
    block, _ = rope_json.blocks(raw, nested=False)
    if not block:
        raise refuse("is a Ministral 3 without `rope_parameters`")
    return {"query_growth": float(block.get("llama_4_scaling_beta") or 0.0), **read_window_everywhere(raw)}


def write_ministral3(config: ModelConfig) -> Raw:
    block = write_ropes(config, nested=False, part=False) | {"llama_4_scaling_beta": config.query_growth}
    return {"rope_parameters": block, "sliding_window": config.window}


def _read_gemma(raw: Raw) -> Raw:
    if raw.get("use_bidirectional_attention"):
        raise refuse("looks ahead (`use_bidirectional_attention`)")
    return {
        "norms": "both",
        "embedding_scale": float(raw["hidden_size"]) ** 0.5,
        "attention_scale": float(raw["query_pre_attn_scalar"]) ** -0.5,
        "logit_softcap": raw["final_logit_softcapping"],
    }


def _write_gemma(config: ModelConfig) -> Raw:
    return write_layer_types(config) | {
        "query_pre_attn_scalar": round((config.attention_scale or config.head_dim**-0.5) ** -2),
        "final_logit_softcapping": config.logit_softcap,
        "attn_logit_softcapping": config.attention_softcap,
    }


def read_gemma2(raw: Raw) -> Raw:
    return _read_gemma(raw) | _windows(raw, 2) | {"attention_softcap": raw["attn_logit_softcapping"]}


def write_gemma2(config: ModelConfig) -> Raw:
    return _write_gemma(config)


def read_gemma3(raw: Raw) -> Raw:
    if raw["attn_logit_softcapping"] is not None:
        raise refuse("is a Gemma 3 that caps attention's scores, which transformers does not")
    return _read_gemma(raw) | _windows(raw, int(raw["sliding_window_pattern"])) | {"qk_norm": True}


def write_gemma3(config: ModelConfig) -> Raw:
    return _write_gemma(config)


def read_olmo2(raw: Raw) -> Raw:
    return {"norms": "post", "qk_norm": True, "qk_norm_whole": True}


def read_olmo3(raw: Raw) -> Raw:
    return read_olmo2(raw) | _windows(raw, 4)


def read_gpt2(raw: Raw) -> Raw:
    for key in ("scale_attn_by_inverse_layer_idx", "add_cross_attention"):
        if raw.get(key):
            raise refuse(f"is a GPT-2 with `{key}`")
    return {
        "kv_heads": raw["num_attention_heads"],
        "head_dim": raw["hidden_size"] // raw["num_attention_heads"],
        "rotary": None,
        "hidden": raw["intermediate_size"] or 4 * raw["hidden_size"],
        "attention_scale": None if raw.get("scale_attn_weights", True) else 1.0,
        "no_rope": frozenset(range(raw["num_hidden_layers"])),
        **dict.fromkeys(("learned_positions", "layer_norm", "qkv_bias", "output_bias", "mlp_bias"), True),
        "gated": False,
    }


def write_gpt2(config: ModelConfig) -> Raw:
    return {"scale_attn_weights": config.attention_scale is None}


# families with experts


def read_mixtral(raw: Raw) -> Raw:
    experts = Experts(
        raw["num_local_experts"], raw["num_experts_per_tok"], raw["intermediate_size"], softmax=True
    )
    return {"experts": experts, **read_window_everywhere(raw)}


def _experts(config: ModelConfig) -> Experts:
    if config.experts is None:
        raise refuse("has no experts")
    return config.experts


def write_mixtral(config: ModelConfig) -> Raw:
    experts = _experts(config)
    return {
        "num_local_experts": experts.count,
        "num_experts_per_tok": experts.top_k,
        "intermediate_size": experts.hidden,
        "sliding_window": config.window,
    }


def read_qwen3_moe(raw: Raw) -> Raw:
    _no_windows(raw)
    dense = raw.get("mlp_only_layers") or []
    if raw.get("decoder_sparse_step", 1) != 1 or dense != list(range(len(dense))):
        raise refuse("has experts in scattered layers", "use one with experts from some layer on")
    experts = Experts(
        raw.get("num_experts") or raw["num_local_experts"],
        raw["num_experts_per_tok"],
        raw["moe_intermediate_size"],
        dense=len(dense),
        softmax=True,
        normalise=bool(raw.get("norm_topk_prob", False)),
    )
    return {"qk_norm": True, "experts": experts}


def write_qwen3_moe(config: ModelConfig) -> Raw:
    experts = _experts(config)
    dense = list(range(experts.dense))
    return _write_experts(experts) | {
        "num_experts": experts.count, "decoder_sparse_step": 1, "mlp_only_layers": dense,
    }  # fmt: skip


def _write_experts(experts: Experts) -> Raw:
    return {
        "moe_intermediate_size": experts.hidden,
        "num_experts_per_tok": experts.top_k,
        "norm_topk_prob": experts.normalise,
    }


def read_glm4_moe(raw: Raw) -> Raw:
    return {"qk_norm": bool(raw.get("use_qk_norm")), "experts": _read_balanced(raw)}


def _read_balanced(raw: Raw) -> Experts:
    """Experts whose load is balanced by a bias: GLM-4-MoE, DeepSeek-V3."""
    return Experts(
        raw.get("n_routed_experts") or raw["num_local_experts"],
        raw["num_experts_per_tok"],
        raw["moe_intermediate_size"],
        shared=raw.get("n_shared_experts", 1),
        dense=raw.get("first_k_dense_replace", 1),
        scale=float(raw.get("routed_scaling_factor", 1.0)),
        normalise=bool(raw.get("norm_topk_prob", True)),
        balance=float(raw.get("balance_step", 0.0)),
        groups=raw.get("n_group") or 1,
        top_groups=raw.get("topk_group") or 1,
    )


def _write_balanced(experts: Experts) -> Raw:
    return _write_experts(experts) | {
        "n_routed_experts": experts.count,
        "n_shared_experts": experts.shared,
        "first_k_dense_replace": experts.dense,
        "routed_scaling_factor": experts.scale,
        "n_group": experts.groups,
        "topk_group": experts.top_groups,
        "num_nextn_predict_layers": 0,
        "balance_step": experts.balance,
    }


def write_glm4_moe(config: ModelConfig) -> Raw:
    part = config.turned / config.head_dim
    return _write_balanced(_experts(config)) | {"use_qk_norm": config.qk_norm, "partial_rotary_factor": part}


def read_deepseek_v3(raw: Raw) -> Raw:
    if not raw["rope_interleave"]:
        raise refuse("is a DeepSeek-V3 with its turned numbers in halves (`rope_interleave: false`)")
    latent = Latent(
        raw["kv_lora_rank"],
        raw["qk_nope_head_dim"],
        raw["qk_rope_head_dim"],
        raw["v_head_dim"],
        raw["q_lora_rank"],
    )
    width = latent.plain + latent.turned
    block, _ = rope_json.blocks(raw, nested=False)
    whole, scale = block.get("mscale_all_dim"), None
    if whole and (block.get("rope_type") or block.get("type") or "default") != "default":
        scale = yarn_factor(float(block["factor"]), whole) ** 2 * width**-0.5
    return {
        "latent": latent, "head_dim": width, "rotary": None, "attention_scale": scale,
        "kv_heads": raw["num_attention_heads"], "experts": _read_balanced(raw),
    }  # fmt: skip


def write_deepseek_v3(config: ModelConfig) -> Raw:
    latent, scaling = config.latent, config.rope_scaling
    if latent is None:
        raise refuse("has no latent attention")
    block = write_ropes(config, nested=False, part=False)
    if config.attention_scale is not None and scaling is not None:  # said as what yarn multiplies scores by
        sharper = math.sqrt(config.attention_scale * config.head_dim**0.5)
        block["mscale_all_dim"] = (sharper - 1) / (0.1 * math.log(scaling.factor))
        block.setdefault("attention_factor", yarn_factor(scaling.factor))
    return _write_balanced(_experts(config)) | {
        "rope_parameters": block,
        "rope_interleave": True,
        "head_dim": latent.turned,  # what transformers turns
        "q_lora_rank": latent.q_rank,
        "kv_lora_rank": latent.kv_rank,
        "qk_rope_head_dim": latent.turned,
        "qk_nope_head_dim": latent.plain,
        "v_head_dim": latent.value,
    }


def read_gpt_oss(raw: Raw) -> Raw:
    experts = Experts(
        raw["num_local_experts"], raw["num_experts_per_tok"], raw["intermediate_size"], softmax=True, bias=True,
        clamp=(float(raw["swiglu_alpha"]), float(raw["swiglu_limit"])),
    )  # fmt: skip
    return {"sinks": True, "experts": experts, **_windows(raw, 2)}


def write_gpt_oss(config: ModelConfig) -> Raw:
    experts = _experts(config)
    if experts.clamp is None:
        raise refuse("has experts without a clamp")
    return write_layer_types(config) | {
        "num_local_experts": experts.count,
        "num_experts_per_tok": experts.top_k,
        "intermediate_size": experts.hidden,
        "swiglu_alpha": experts.clamp[0],
        "swiglu_limit": experts.clamp[1],
    }
