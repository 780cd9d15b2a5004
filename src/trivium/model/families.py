"""Hugging Face's `config.json`: how each family spells the one transformer.

A config is read from the family that it names, and written in the plainest family that can say everything it holds: a
Mistral without a window is a Llama, number for number.
"""

from __future__ import annotations

from typing import Any

from trivium.errors import ArtifactError
from trivium.model.config import Experts, ModelConfig
from trivium.recipe.network import RopeScaling

FAMILIES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
    "granite": "GraniteForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "glm4_moe": "Glm4MoeForCausalLM",
}
"""`model_type` -> the class that transformers makes of it."""

_THETA = {"smollm3": 2_000_000.0}
_TIED = frozenset({"smollm3"})  # tied where config.json does not say
_BIASED_OUTPUT = frozenset({"llama", "qwen3", "smollm3", "granite", "qwen3_moe"})


def family(config: ModelConfig) -> str:
    """The family that a config is written in. ArtifactError for a mixture that none of them has."""
    fits = [name for name in _candidates(config) if _can_say(config, name)]
    if not fits:
        raise ArtifactError(
            "no family of transformers has this mixture of features (windows, layers without positions, norms of "
            "queries and keys, experts, scales)",
            fix="leave one of them out",
        )
    return fits[0]


def _candidates(config: ModelConfig) -> tuple[str, ...]:
    if config.experts is not None:
        return ("qwen3_moe",) if config.experts.softmax else ("glm4_moe",)
    if config.no_rope:
        return ("smollm3",)
    return ("qwen3",) if config.qk_norm else ("llama", "qwen2", "mistral", "granite")


def _can_say(config: ModelConfig, name: str) -> bool:
    scaled = (config.attention_scale, config.embedding_scale, config.residual_scale, config.logit_scale)
    everywhere = len(config.windowed) == config.layers
    if name == "qwen2" or name == "glm4_moe":
        biases = (config.qkv_bias or name == "glm4_moe") and not (config.output_bias or config.mlp_bias)
    elif name == "mistral":
        biases = not (config.qkv_bias or config.output_bias or config.mlp_bias)
    else:
        biases = config.qkv_bias == config.output_bias and (not config.mlp_bias or "qwen" not in name)
    return (
        biases
        and (name == "granite" or scaled == (None, 1.0, 1.0, 1.0))
        and (not config.windowed or name in ("qwen2", "qwen3") or (name == "mistral" and everywhere))
        and (name != "mistral" or everywhere)
    )


def to_huggingface(
    config: ModelConfig, *, bos: int | None, eos: int | list[int], pad: int | None
) -> dict[str, Any]:
    """The `config.json` of a model, which transformers loads."""
    name = family(config)
    made: dict[str, Any] = {
        "architectures": [FAMILIES[name]],
        "model_type": name,
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.hidden,
        "max_position_embeddings": config.context,
        "rope_theta": config.rope_theta,
        "rope_parameters": _rope(config),
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "hidden_act": "silu",
        "attention_bias": config.qkv_bias,
        "mlp_bias": config.mlp_bias,
        "bos_token_id": bos,
        "eos_token_id": eos,
        "pad_token_id": pad,
        "dtype": "float32",
    }
    if name in ("qwen2", "qwen3"):
        kinds = {True: "sliding_attention", False: "full_attention"}
        made |= {"use_sliding_window": config.window is not None, "sliding_window": config.window}
        made["layer_types"] = [kinds[layer in config.windowed] for layer in range(config.layers)]
    elif name == "mistral":
        made["sliding_window"] = config.window
    elif name == "smollm3":
        made["no_rope_layers"] = [int(layer not in config.no_rope) for layer in range(config.layers)]
        made["layer_types"] = ["full_attention"] * config.layers
    elif name == "granite":
        made |= {
            "embedding_multiplier": config.embedding_scale,
            "residual_multiplier": config.residual_scale,
            "logits_scaling": 1 / config.logit_scale,
            "attention_multiplier": config.attention_scale or config.head_dim**-0.5,
        }
    if config.experts is not None:
        made |= _experts(config, config.experts)
    if config.base_dim is not None:
        made["mup_base_width"] = config.base_dim
    return made


def _rope(config: ModelConfig) -> dict[str, Any]:
    scaling = config.rope_scaling
    if scaling is None:
        return {"rope_type": "default", "rope_theta": config.rope_theta, **_whole_head(config)}
    made: dict[str, Any] = {
        "rope_type": scaling.kind,
        "rope_theta": config.rope_theta,
        "factor": scaling.factor,
    }
    if scaling.kind != "linear":
        made["original_max_position_embeddings"] = scaling.original
    if scaling.kind == "llama3":
        made |= {"low_freq_factor": scaling.low, "high_freq_factor": scaling.high}
    if scaling.kind == "yarn":
        made |= {"beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow, "truncate": scaling.truncate}
        if scaling.attention is not None:
            made["attention_factor"] = scaling.attention
    return {**made, **_whole_head(config)}


def _whole_head(config: ModelConfig) -> dict[str, Any]:
    """GLM-4 turns half of each head where nothing is said."""
    return {"partial_rotary_factor": 1.0} if config.experts is not None and not config.experts.softmax else {}


def _experts(config: ModelConfig, experts: Experts) -> dict[str, Any]:
    made: dict[str, Any] = {
        "moe_intermediate_size": experts.hidden,
        "num_experts_per_tok": experts.top_k,
        "norm_topk_prob": experts.normalise,
    }
    if experts.softmax:
        dense = list(range(experts.dense))
        return made | {"num_experts": experts.count, "decoder_sparse_step": 1, "mlp_only_layers": dense}
    return made | {
        "n_routed_experts": experts.count,
        "n_shared_experts": experts.shared,
        "first_k_dense_replace": experts.dense,
        "routed_scaling_factor": experts.scale,
        "n_group": 1,
        "topk_group": 1,
        "use_qk_norm": config.qk_norm,
        "partial_rotary_factor": 1.0,
        "num_nextn_predict_layers": 0,
        "balance_step": experts.balance,
    }


def from_huggingface(raw: dict[str, Any]) -> ModelConfig:
    """Reads a `config.json`. ArtifactError for an architecture or a setting that this transformer does not have.

    Raises KeyError, TypeError or ValueError where a value is missing or makes no sense.
    """
    name = raw.get("model_type")
    if name not in FAMILIES:
        raise ArtifactError(
            f"the checkpoint's architecture is {name!r}",
            fix=f"use a checkpoint of one of these: {', '.join(FAMILIES)}",
        )
    if raw.get("hidden_act", "silu") not in ("silu", "swish"):
        raise ArtifactError(
            f"the checkpoint's activation is {raw['hidden_act']!r}, not silu", fix="use another one"
        )
    heads, layers = int(raw["num_attention_heads"]), int(raw["num_hidden_layers"])
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    biased = bool(raw.get("attention_bias", False))
    config = dict(
        vocab_size=raw["vocab_size"],
        dim=raw["hidden_size"],
        layers=layers,
        heads=heads,
        kv_heads=raw.get("num_key_value_heads") or heads,
        head_dim=raw.get("head_dim") or raw["hidden_size"] // heads,
        hidden=raw["intermediate_size"],
        context=raw["max_position_embeddings"],
        rope_theta=float(rope.get("rope_theta") or raw.get("rope_theta") or _THETA.get(name, 10_000.0)),
        norm_eps=raw["rms_norm_eps"],
        tie_embeddings=raw.get("tie_word_embeddings", name in _TIED),
        qk_norm=name in ("qwen3", "qwen3_moe") or bool(raw.get("use_qk_norm")),
        qkv_bias=biased or name == "qwen2",
        output_bias=biased and name in _BIASED_OUTPUT,
        mlp_bias=bool(raw.get("mlp_bias", False)) and name in ("llama", "smollm3", "granite"),
        rope_scaling=_read_rope(raw, rope),
        no_rope=_no_rope(raw, layers) if name == "smollm3" else frozenset(),
        base_dim=raw.get("mup_base_width"),
        **_windows(raw, name, layers),
    )
    if name == "granite":
        config |= {
            "embedding_scale": float(raw.get("embedding_multiplier", 1.0)),
            "residual_scale": float(raw.get("residual_multiplier", 1.0)),
            "logit_scale": 1 / float(raw.get("logits_scaling", 1.0)),
            "attention_scale": float(raw.get("attention_multiplier", 1.0)),
        }
    if name in ("qwen3_moe", "glm4_moe"):
        config["experts"] = _read_experts(raw, name)
    return ModelConfig(**config)


def _read_rope(raw: dict[str, Any], rope: dict[str, Any]) -> RopeScaling | None:
    kind = rope.get("rope_type") or rope.get("type") or "default"
    part = rope.get("partial_rotary_factor", raw.get("partial_rotary_factor"))
    if part is None:
        part = 0.5 if raw["model_type"] == "glm4_moe" else 1.0
    if part != 1.0 or kind not in ("default", "linear", "llama3", "yarn") or rope.get("mscale"):
        raise ArtifactError(
            f"the checkpoint's rotary positions are {kind!r}"
            + (f" on {part} of each head" if part != 1.0 else ""),
            fix="use a checkpoint with plain, linear, llama3 or yarn positions on whole heads",
        )
    if kind == "default":
        return None
    original = rope.get("original_max_position_embeddings") or raw["max_position_embeddings"]
    factor = rope.get("factor") or raw["max_position_embeddings"] / original
    fields: dict[str, Any] = {"kind": kind, "factor": factor}
    if kind != "linear":
        fields["original"] = original
    if kind == "llama3":
        fields |= {"low": rope["low_freq_factor"], "high": rope["high_freq_factor"]}
    if kind == "yarn":
        fields |= {"beta_fast": rope.get("beta_fast") or 32.0, "beta_slow": rope.get("beta_slow") or 1.0}
        fields |= {"attention": rope.get("attention_factor"), "truncate": rope.get("truncate", True)}
    return RopeScaling.model_validate(fields)


def _no_rope(raw: dict[str, Any], layers: int) -> frozenset[int]:
    turned = raw.get("no_rope_layers")
    if turned is None:
        every = raw.get("no_rope_layer_interval", 4)
        turned = [int((layer + 1) % every != 0) for layer in range(layers)]
    return frozenset(layer for layer in range(layers) if not turned[layer])


def _windows(raw: dict[str, Any], name: str, layers: int) -> dict[str, Any]:
    window = raw.get("sliding_window", 4096 if name == "mistral" else None)
    used = name == "mistral" or (
        name in ("qwen2", "qwen3", "qwen3_moe", "smollm3") and raw.get("use_sliding_window")
    )
    if not used or window is None:
        return {}
    if name == "mistral":
        return {"window": window, "windowed": frozenset(range(layers))}
    kinds = raw.get("layer_types")
    first = raw.get("max_window_layers", 28)
    windowed = {i for i in range(layers) if (kinds[i] == "sliding_attention" if kinds else i >= first)}
    if name in ("smollm3", "qwen3_moe") and windowed:
        raise ArtifactError(f"the checkpoint is a {name} with sliding windows", fix="use one without windows")
    return {"window": window, "windowed": frozenset(windowed)}


def _read_experts(raw: dict[str, Any], name: str) -> Experts:
    common = dict(top_k=raw["num_experts_per_tok"], hidden=raw["moe_intermediate_size"])
    if name == "qwen3_moe":
        dense = raw.get("mlp_only_layers") or []
        if raw.get("decoder_sparse_step", 1) != 1 or dense != list(range(len(dense))):
            raise ArtifactError(
                "the checkpoint has experts in scattered layers",
                fix="use one with experts from some layer on",
            )
        normal = bool(raw.get("norm_topk_prob", False))
        return Experts(
            raw.get("num_experts") or raw["num_local_experts"],
            **common,
            dense=len(dense),
            softmax=True,
            normalise=normal,
        )
    if raw.get("n_group", 1) != 1:
        raise ArtifactError("the checkpoint chooses experts by groups", fix="use one with a single group")
    return Experts(
        raw.get("n_routed_experts") or raw["num_local_experts"],
        **common,
        shared=raw.get("n_shared_experts", 1),
        dense=raw.get("first_k_dense_replace", 1),
        scale=float(raw.get("routed_scaling_factor", 1.0)),
        normalise=bool(raw.get("norm_topk_prob", True)),
        balance=float(raw.get("balance_step", 0.0)),
    )
