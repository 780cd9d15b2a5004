"""The shape of a model, and its spelling in a Hugging Face `config.json`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trivium.errors import ArtifactError
from trivium.recipe.training import ModelShape


@dataclass(frozen=True)
class ModelConfig:
    """Everything that decides the network. `hidden` is the width of SwiGLU, `head_dim` that of one head."""

    vocab_size: int
    dim: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    context: int
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    tie_embeddings: bool = True
    qk_norm: bool = False

    @classmethod
    def from_shape(cls, shape: ModelShape, vocab_size: int) -> ModelConfig:
        return cls(
            vocab_size=vocab_size,
            dim=shape.dim,
            layers=shape.layers,
            heads=shape.heads,
            kv_heads=shape.kv_heads or shape.heads,
            head_dim=shape.dim // shape.heads,
            hidden=shape.hidden or -(-(shape.dim * 8 // 3) // 64) * 64,
            context=shape.context,
            rope_theta=shape.rope_theta,
            tie_embeddings=shape.tie_embeddings,
            qk_norm=shape.qk_norm,
        )

    def to_huggingface(self, *, bos: int | None, eos: int, pad: int) -> dict[str, Any]:
        """The `config.json` of a LlamaForCausalLM, or of a Qwen3ForCausalLM where queries and keys are normed."""
        family = ("Qwen3ForCausalLM", "qwen3") if self.qk_norm else ("LlamaForCausalLM", "llama")
        return {
            "architectures": [family[0]],
            "model_type": family[1],
            "vocab_size": self.vocab_size,
            "hidden_size": self.dim,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.hidden,
            "max_position_embeddings": self.context,
            "rope_theta": self.rope_theta,
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta},
            "rms_norm_eps": self.norm_eps,
            "tie_word_embeddings": self.tie_embeddings,
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "bos_token_id": bos,
            "eos_token_id": eos,
            "pad_token_id": pad,
            "dtype": "float32",
        }

    @classmethod
    def from_huggingface(cls, config: dict[str, Any]) -> ModelConfig:
        """Reads a `config.json`. ArtifactError for an architecture or a setting that this transformer does not have."""
        kind = config.get("model_type")
        if kind not in ("llama", "qwen3"):
            raise ArtifactError(
                f"the checkpoint's architecture is {kind!r}",
                fix="use a checkpoint of the llama or qwen3 layout",
            )
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        if (
            rope.get("rope_type", "default") != "default"
            or config.get("attention_bias")
            or config.get("mlp_bias")
        ):
            raise ArtifactError(
                "the checkpoint uses scaled rotary positions or biases, which this transformer does not have",
                fix="use a checkpoint without rope scaling and without biases",
            )
        heads = config["num_attention_heads"]
        return cls(
            vocab_size=config["vocab_size"],
            dim=config["hidden_size"],
            layers=config["num_hidden_layers"],
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            hidden=config["intermediate_size"],
            context=config["max_position_embeddings"],
            rope_theta=rope.get("rope_theta") or config.get("rope_theta", 10_000.0),
            norm_eps=config["rms_norm_eps"],
            tie_embeddings=config.get("tie_word_embeddings", False),
            qk_norm=kind == "qwen3",
        )
