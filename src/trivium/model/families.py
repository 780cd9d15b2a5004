"""Hugging Face's `config.json`: how each family spells the one transformer.

A config is read from the family that it names, and written in the first family of the table that reads back exactly what was
written: a Mistral without a window is a Llama, number for number. So nothing is lost on the way out, and a mixture of features
that no family has is refused. The names of tensors are translated in `names`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

from pydantic import BaseModel

from trivium.errors import ArtifactError
from trivium.model import dialects, rope_json
from trivium.model.config import ModelConfig
from trivium.model.dialects import Raw

ACTIVATIONS = {
    "silu": "silu", "swish": "silu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh",
}  # fmt: skip
"""Their names -> ours."""


@dataclass(frozen=True)
class Family:
    """One row: what a family says otherwise than Llama does."""

    architecture: str
    """The class that transformers makes of it."""
    read: Callable[[Raw], Raw] = dialects.nothing_read
    """From its config.json to the fields of ModelConfig that are not Llama's."""
    write: Callable[[ModelConfig], Raw] = dialects.nothing_written
    """What its config.json says beside what all say."""
    defaults: Raw = field(default_factory=dict)
    """What is meant where its config.json says nothing."""
    theta: float = 10_000.0
    biases: frozenset[str] = frozenset()
    """What `attention_bias` and `mlp_bias` stand for here: fields of ModelConfig."""
    two_ropes: bool = False
    """`rope_parameters` holds a block for layers with a window and one for the others."""
    partial: bool = False
    """Whether transformers turns part of each head where `partial_rotary_factor` says so."""
    ropes: frozenset[str] = frozenset(rope_json.KEYS) - {"longrope"}
    """The kinds of rotary positions that it can have."""
    keys: dict[str, str] = field(default_factory=dict)
    """Its own names of keys -> Llama's."""
    activation_key: str = "hidden_act"


def _write_phi3(config: ModelConfig) -> Raw:
    """The number of tokens up to which longrope is short stands outside of its block, too."""
    original = config.changes_at or config.context
    return {**dialects.write_window_everywhere(config), "original_max_position_embeddings": original}


_ALL = frozenset({"qkv_bias", "output_bias", "mlp_bias"})
_ATTENTION = frozenset({"qkv_bias", "output_bias"})

FAMILIES: dict[str, Family] = {
    "llama": Family("LlamaForCausalLM", biases=_ALL),
    "qwen2": Family("Qwen2ForCausalLM", dialects.read_qwen2, dialects.write_windows),
    "mistral": Family(
        "MistralForCausalLM", dialects.read_window_everywhere, dialects.write_window_everywhere,
        {"sliding_window": 4096},
    ),
    "granite": Family("GraniteForCausalLM", dialects.read_granite, dialects.write_granite, biases=_ALL),
    "qwen3": Family("Qwen3ForCausalLM", dialects.read_qwen3, dialects.write_windows, biases=_ATTENTION),
    "smollm3": Family(
        "SmolLM3ForCausalLM", dialects.read_smollm3, dialects.write_smollm3, {"tie_word_embeddings": True},
        theta=2_000_000.0, biases=_ALL,
    ),
    "phi3": Family(
        "Phi3ForCausalLM", dialects.read_window_everywhere, _write_phi3,
        {"rms_norm_eps": 1e-5, "original_max_position_embeddings": 4096}, partial=True, ropes=frozenset({"default", "longrope"}),
    ),
    "ministral": Family(
        "MinistralForCausalLM", dialects.read_ministral, dialects.write_layer_types,
        {"sliding_window": 4096, "rms_norm_eps": 1e-6},
    ),
    "ministral3": Family(
        "Ministral3ForCausalLM", dialects.read_ministral3, dialects.write_ministral3,
        {"rms_norm_eps": 1e-5, "head_dim": 128}, theta=1_000_000.0,
    ),
    "gemma2": Family(
        "Gemma2ForCausalLM", dialects.read_gemma2, dialects.write_gemma2, dialects.GEMMA2, biases=_ATTENTION,
        activation_key="hidden_activation",
    ),
    "gemma3_text": Family(
        "Gemma3ForCausalLM", dialects.read_gemma3, dialects.write_gemma3, dialects.GEMMA3, theta=1_000_000.0,
        biases=_ATTENTION, two_ropes=True, activation_key="hidden_activation",
    ),
    "olmo2": Family(
        "Olmo2ForCausalLM", dialects.read_olmo2, defaults={"rms_norm_eps": 1e-5}, biases=_ATTENTION
    ),
    "olmo3": Family(
        "Olmo3ForCausalLM", dialects.read_olmo3, dialects.write_layer_types,
        {"rms_norm_eps": 1e-5, "sliding_window": 4096}, theta=500_000.0, biases=_ATTENTION, two_ropes=True,
    ),
    "gpt2": Family(
        "GPT2LMHeadModel", dialects.read_gpt2, dialects.write_gpt2, dialects.GPT2, keys=dialects.GPT2_KEYS,
        activation_key="activation_function",
    ),
    "mixtral": Family(
        "MixtralForCausalLM", dialects.read_mixtral, dialects.write_mixtral, {"rms_norm_eps": 1e-5},
        theta=1_000_000.0,
    ),
    "qwen3_moe": Family(
        "Qwen3MoeForCausalLM", dialects.read_qwen3_moe, dialects.write_qwen3_moe, biases=_ATTENTION
    ),
    "glm4_moe": Family(
        "Glm4MoeForCausalLM", dialects.read_glm4_moe, dialects.write_glm4_moe, {"partial_rotary_factor": 0.5},
        biases=frozenset({"qkv_bias"}), partial=True,
    ),
    "deepseek_v3": Family(
        "DeepseekV3ForCausalLM", dialects.read_deepseek_v3, dialects.write_deepseek_v3, dialects.DEEPSEEK_V3,
        biases=_ATTENTION,
    ),
    "gpt_oss": Family(
        "GptOssForCausalLM", dialects.read_gpt_oss, dialects.write_gpt_oss, dialects.GPT_OSS, theta=150_000.0,
        biases=_ATTENTION,
    ),
}  # fmt: skip
"""`model_type` -> its row, the plainest first."""


def family(config: ModelConfig) -> str:
    """The family that a config is written in. ArtifactError for a mixture that none of them has."""
    for name in FAMILIES:
        try:
            if _same(from_huggingface(_write(config, name)), config):
                return name
        except (ArtifactError, KeyError, TypeError, ValueError, ZeroDivisionError, AttributeError):
            continue  # the family has no words for it
    raise ArtifactError(
        "no family of transformers has this mixture of features (windows, layers without positions, norms, biases, "
        "experts, scales)",
        fix="leave one of them out",
    )


def _same(a: ModelConfig, b: ModelConfig) -> bool:
    return all(_alike(getattr(a, one.name), getattr(b, one.name)) for one in fields(ModelConfig))


def _alike(a: Any, b: Any) -> bool:
    """Equal, numbers up to the rounding of 1 / (1 / x)."""
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-9)
    if isinstance(a, BaseModel) and isinstance(b, BaseModel):
        return all(_alike(value, getattr(b, name)) for name, value in a)
    if type(a) is type(b) and hasattr(a, "__dataclass_fields__"):
        return all(_alike(value, vars(b)[name]) for name, value in vars(a).items())
    return bool(a == b)


def to_huggingface(
    config: ModelConfig, *, bos: int | None, eos: int | list[int], pad: int | None
) -> dict[str, Any]:
    """The `config.json` of a model, which transformers loads."""
    ids = {"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": pad}
    return _write(config, family(config)) | ids | {"dtype": "float32"}


def _write(config: ModelConfig, name: str) -> Raw:
    row = FAMILIES[name]
    raw: Raw = {
        "architectures": [row.architecture],
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
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        row.activation_key: next(n for n, ours in ACTIVATIONS.items() if ours == config.activation),
        "attention_bias": config.qkv_bias,
        "mlp_bias": config.mlp_bias,
        "rope_parameters": dialects.write_ropes(
            config, nested=row.two_ropes, part="partial_rotary_factor" in row.defaults
        ),
    }
    raw |= row.write(config)
    if config.base_dim is not None:
        raw["mup_base_width"] = config.base_dim
    theirs = {llama: own for own, llama in row.keys.items()}
    return {theirs.get(key, key): value for key, value in raw.items()}


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
    row = FAMILIES[name]
    raw = row.defaults | {row.keys.get(key, key): value for key, value in raw.items()}
    activation = raw.get(row.activation_key) or raw.get("hidden_act") or "silu"
    if activation not in ACTIVATIONS:
        raise ArtifactError(
            f"the checkpoint's activation is {activation!r}, none of {', '.join(ACTIVATIONS)}",
            fix="use another one",
        )
    heads = int(raw["num_attention_heads"])
    head_dim = raw.get("head_dim") or raw["hidden_size"] // heads
    full, sliding = rope_json.blocks(raw, nested=row.two_ropes)
    if (kind := rope_json.kind_of(full)) not in row.ropes and kind in rope_json.KEYS:
        raise dialects.refuse(f"is a {name} with {kind} rotary positions")
    # without a base of its own a block has the file's, and of two blocks only the first does (transformers)
    rope = rope_json.read(full, raw, float(raw.get("rope_theta") or row.theta))
    turned = rope_json.turned(full, raw, head_dim)
    if turned != head_dim and not row.partial:
        raise dialects.refuse(f"is a {name} that turns {turned} of the {head_dim} numbers of a head")
    biased = {"qkv_bias", "output_bias"} if raw.get("attention_bias") else set[str]()
    biased |= {"mlp_bias"} if raw.get("mlp_bias") else set()
    config: Raw = dict(
        vocab_size=raw["vocab_size"],
        dim=raw["hidden_size"],
        layers=int(raw["num_hidden_layers"]),
        heads=heads,
        kv_heads=raw.get("num_key_value_heads") or heads,
        head_dim=head_dim,
        hidden=raw["intermediate_size"],
        context=raw["max_position_embeddings"],
        rope_theta=rope.theta,
        rope_scaling=rope.scaling,
        rotary=turned,
        norm_eps=raw["rms_norm_eps"],
        tie_embeddings=raw.get("tie_word_embeddings", False),
        activation=ACTIVATIONS[activation],
        base_dim=raw.get("mup_base_width"),
        **dict.fromkeys(biased & row.biases, True),
    )
    if sliding is not None:
        local = float(
            raw.get("rope_local_base_freq") or row.defaults.get("rope_local_base_freq") or row.theta
        )
        config["window_rope"] = rope_json.read(sliding, raw, local)
    return ModelConfig(**(config | row.read(raw)))
