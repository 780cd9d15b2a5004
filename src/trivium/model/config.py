"""The shape of a model. Its spelling in a Hugging Face `config.json` stands in `families`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

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
    groups: int = (
        1  # experts are chosen within the `top_groups` groups whose two best score highest (DeepSeek-V3)
    )
    top_groups: int = 1
    bias: bool = False  # on the router and on each expert's matrices
    clamp: tuple[float, float] | None = None  # (alpha, limit) of gpt-oss's clamped SwiGLU


@dataclass(frozen=True)
class Rope:
    """Rotary positions: the base of their frequencies, and how they are slowed."""

    theta: float
    scaling: RopeScaling | None = None


@dataclass(frozen=True)
class Latent:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1): keys and values are made from one narrow vector.

    Widths are numbers of one head but for the ranks; queries and keys are `plain` + `turned` wide.
    """

    kv_rank: int
    plain: int  # without positions
    turned: int  # with rotary positions; in keys, one for all heads
    value: int
    q_rank: int | None = None  # None: queries are made straight from the residual stream


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
    qk_norm_whole: bool = False  # one norm over all heads (OLMo 2) instead of one for each
    rope_scaling: RopeScaling | None = None
    no_rope: frozenset[int] = frozenset()  # layers without positions (SmolLM3)
    window: int | None = None  # a token sees itself and window - 1 before it, in the layers `windowed`
    windowed: frozenset[int] = frozenset()
    window_rope: Rope | None = None  # positions in those layers (Gemma 3); None: as in the others
    rotary: int | None = None  # numbers of each head that are turned, the first ones; None: all
    query_growth: float = 0.0  # queries times 1 + this x ln(1 + floor(position / original)) (Ministral 3)
    learned_positions: bool = False  # added to the embeddings (GPT-2)
    sinks: bool = False  # each head has a logit more in its softmax, whose share goes nowhere (gpt-oss)
    latent: Latent | None = None
    qkv_bias: bool = False
    output_bias: bool = False  # on attention's output
    mlp_bias: bool = False
    attention_scale: float | None = None  # None: 1 / sqrt(head_dim)
    attention_softcap: float | None = None  # scores become cap x tanh(score / cap) (Gemma 2)
    logit_softcap: float | None = None
    norms: Literal["pre", "post", "both"] = (
        "pre"  # before each layer (Llama), behind it (OLMo 2), or both (Gemma)
    )
    layer_norm: bool = False  # LayerNorm with a bias in place of RMSNorm (GPT-2)
    activation: Literal["silu", "gelu", "gelu_tanh"] = "silu"
    gated: bool = True  # False: down(activation(up(x))) without a gate (GPT-2)
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    experts: Experts | None = None
    base_dim: int | None = None  # muP: the width at which the learning rate was found

    @property
    def width_ratio(self) -> float:
        """muP: how much wider the model is than the one whose learning rate it uses; 1 without muP."""
        return self.dim / self.base_dim if self.base_dim else 1.0

    @property
    def turned(self) -> int:
        """How many numbers of each head are turned by its position."""
        return self.latent.turned if self.latent is not None else self.rotary or self.head_dim

    @property
    def changes_at(self) -> int | None:
        """The number of tokens from which on a text's positions are all other ones (longrope); None where they never are."""
        scaling = self.rope_scaling
        return scaling.original if scaling is not None and scaling.kind == "longrope" else None

    @property
    def cached(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """What is kept of each token and layer while a model writes: two of (heads, width)."""
        if self.latent is not None:
            return (1, self.latent.kv_rank), (1, self.latent.turned)
        return (self.kv_heads, self.head_dim), (self.kv_heads, self.head_dim)

    def _check(self) -> None:
        """ValueError for numbers that make no network."""
        for name in ("vocab_size", "dim", "layers", "heads", "kv_heads", "head_dim", "hidden", "context"):
            if type(value := getattr(self, name)) is not int or value < 1:
                raise ValueError(f"`{name}` is {value!r}, no number of one or more")
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} heads cannot share {self.kv_heads} key/value heads evenly")
        if self.turned % 2 or not 0 < self.turned <= self.head_dim:
            raise ValueError(f"{self.turned} of a head's {self.head_dim} numbers cannot be turned in pairs")
        scaling = self.rope_scaling
        if scaling is not None and scaling.kind == "longrope" and len(scaling.short) * 2 != self.turned:
            raise ValueError(
                f"longrope has {len(scaling.short)} numbers for {self.turned // 2} pairs of a head"
            )
        if self.window is not None and self.window < 1:
            raise ValueError(f"the window is {self.window}")
        experts = self.experts
        if experts is not None and not 0 < experts.top_k <= experts.count:
            raise ValueError(f"each token goes to {experts.top_k} of {experts.count} experts")
        if experts is not None and (experts.groups < experts.top_groups or experts.count % experts.groups):
            raise ValueError(f"{experts.count} experts do not lie in {experts.groups} groups")

    def __post_init__(self) -> None:
        self._check()
        if self.window is None or not self.windowed:  # one spelling for one network
            object.__setattr__(self, "window", None)
            object.__setattr__(self, "windowed", frozenset())
        if not self.windowed or self.window_rope == Rope(self.rope_theta, self.rope_scaling):
            object.__setattr__(self, "window_rope", None)
        if self.rotary == self.head_dim:
            object.__setattr__(self, "rotary", None)
        if self.attention_scale is not None and math.isclose(self.attention_scale, self.head_dim**-0.5):
            object.__setattr__(self, "attention_scale", None)

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
