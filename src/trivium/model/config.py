"""The shape of a model. Its spelling in a Hugging Face `config.json` stands in `families`."""

from __future__ import annotations

from dataclasses import dataclass

from trivium.recipe.network import ModelShape, Moe, RopeScaling


@dataclass(frozen=True)
class Experts:
    """A mixture of experts in place of SwiGLU, as the network needs it."""

    count: int
    top_k: int
    hidden: int  # width of one expert
    shared: int = 0  # experts that every token goes to, as one SwiGLU of shared x hidden
    dense: int = 0  # first layers that keep a plain SwiGLU
    scale: float = 1.0
    softmax: bool = (
        False  # scores by softmax (Qwen3-MoE) instead of sigmoid and a balancing bias (DeepSeek-V3)
    )
    normalise: bool = True  # a token's weights sum to one
    balance: float = 0.0  # step of the bias after each update


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
    rope_scaling: RopeScaling | None = None
    no_rope: frozenset[int] = frozenset()  # layers without positions (SmolLM3)
    window: int | None = None  # a token sees itself and window - 1 before it, in the layers `windowed`
    windowed: frozenset[int] = frozenset()
    qkv_bias: bool = False
    output_bias: bool = False  # on attention's output
    mlp_bias: bool = False
    attention_scale: float | None = None  # None: 1 / sqrt(head_dim)
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    experts: Experts | None = None
    base_dim: int | None = None  # muP: the width at which the learning rate was found

    @property
    def width_ratio(self) -> float:
        """muP: how much wider the model is than the one whose learning rate it uses; 1 without muP."""
        return self.dim / self.base_dim if self.base_dim else 1.0

    def __post_init__(self) -> None:
        if self.window is None or not self.windowed:  # one spelling for one network
            object.__setattr__(self, "window", None)
            object.__setattr__(self, "windowed", frozenset())

    @classmethod
    def from_shape(cls, shape: ModelShape, vocab_size: int) -> ModelConfig:
        return cls(
            vocab_size=vocab_size,
            dim=shape.dim,
            layers=shape.layers,
            heads=shape.heads,
            kv_heads=shape.kv_heads or shape.heads,
            head_dim=shape.dim // shape.heads,
            hidden=_width(shape),
            context=shape.context,
            rope_theta=shape.rope_theta,
            rope_scaling=shape.rope_scaling,
            tie_embeddings=shape.tie_embeddings,
            qk_norm=shape.qk_norm,
            experts=None if shape.moe is None else _experts(shape, shape.moe),
            base_dim=shape.mup_base if shape.mup else None,
            logit_scale=shape.mup_base / shape.dim if shape.mup else 1.0,
            attention_scale=8 / (shape.dim // shape.heads) if shape.mup else None,
        )


def _width(shape: ModelShape) -> int:
    return shape.hidden or -(-(shape.dim * 8 // 3) // 64) * 64


def _experts(shape: ModelShape, moe: Moe) -> Experts:
    hidden = moe.hidden or -(-_width(shape) // ((moe.top_k + moe.shared) * 16)) * 16
    return Experts(
        moe.experts,
        moe.top_k,
        hidden,
        shared=moe.shared,
        dense=moe.dense,
        scale=moe.scale,
        balance=moe.balance,
    )
