"""The shape of a network as a recipe says it."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from trivium.recipe.base import Strict, only

Positive = Annotated[float, Field(gt=0)]
Layer = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
Target = Literal[Layer, "embed_tokens", "lm_head"]


class RopeScaling(Strict):
    """Slower rotary positions, so that a model reads longer rows than it was trained with."""

    kind: Literal["linear", "llama3", "yarn", "longrope"]
    """linear: all frequencies divided by `factor` (Chen et al. 2023). llama3: only the slow ones, with a ramp (Llama 3.1).
    yarn: a ramp by turns within the old context, and attention made sharper (Peng et al. 2023). longrope: each frequency
    divided by a number of its own, of one list in texts up to `original`, of another in longer ones (Ding et al. 2024)."""
    factor: Annotated[float, Field(ge=1)]
    """How many times longer the rows become."""
    original: Annotated[int, Field(ge=8)] = only(8192, {"kind": ["llama3", "yarn", "longrope"]})
    """llama3, yarn, longrope: the context, in tokens, that the model was trained with before."""
    low: Positive = only(1.0, {"kind": ["llama3"]})
    """llama3: waves longer than original / low are slowed by the whole factor."""
    high: Positive = only(4.0, {"kind": ["llama3"]})
    """llama3: waves shorter than original / high stay as they are."""
    beta_fast: Positive = only(32.0, {"kind": ["yarn"]})
    """yarn: dimensions with more turns than this within `original` stay as they are."""
    beta_slow: Positive = only(1.0, {"kind": ["yarn"]})
    """yarn: dimensions with fewer turns than this are slowed by the whole factor."""
    attention: Positive | None = only(None, {"kind": ["yarn", "longrope"]})
    """yarn, longrope: what cosines and sines are multiplied by; None means 0.1 ln(factor) + 1, in longrope
    sqrt(1 + ln(factor) / ln(original))."""
    short: tuple[Positive, ...] = only((), {"kind": ["longrope"]})
    """longrope: what each frequency, half as many as a head has numbers, is divided by in texts up to `original`."""
    long: tuple[Positive, ...] = only((), {"kind": ["longrope"]})
    """longrope: the same in longer texts."""
    truncate: bool = only(True, {"kind": ["yarn"]})
    """yarn: whether the ends of the ramp are rounded to whole dimensions."""

    @model_validator(mode="after")
    def _ramp(self) -> Self:
        if self.kind == "llama3" and self.low >= self.high:
            raise ValueError(f"`low` {self.low:g} must be less than `high` {self.high:g}")
        if self.kind == "longrope" and not 0 < len(self.short) == len(self.long):
            raise ValueError(f"`short` has {len(self.short)} numbers and `long` {len(self.long)}")
        return self


class Moe(Strict):
    """Mixture of experts in place of every SwiGLU: each token goes to a few of many small ones."""

    experts: Annotated[int, Field(ge=2, le=2**16)] = 8
    top_k: Annotated[int, Field(ge=1, le=2**16)] = 2
    """Experts that each token goes to."""
    shared: Annotated[int, Field(ge=1)] = 1
    """Experts that every token goes to, beside those."""
    hidden: Annotated[int, Field(gt=0)] | None = None
    """Width of one expert; None means the model's `hidden` / (top_k + shared), rounded up to a multiple of 16."""
    dense: Annotated[int, Field(ge=0)] = 0
    """So many first layers keep a plain SwiGLU."""
    scale: Positive = 1.0
    """What the routed experts' sum is multiplied by."""
    balance: Annotated[float, Field(ge=0)] = 1e-3
    """How far an expert's bias moves after each step towards equal load (DeepSeek-V3's gamma); 0 switches it off."""


class Adapter(Strict):
    """Low-rank adapters (LoRA): the checkpoint stays as it is, and only small matrices beside its layers are trained.

    The stage's artifact holds the merged model, and the adapter alone in `adapter/`, in the layout of the peft library.
    """

    rank: Annotated[int, Field(ge=1)] = 16
    alpha: Positive | None = None
    """The adapter's output is multiplied by alpha / rank; None means 2 x rank."""
    rslora: bool = False
    """alpha / sqrt(rank) instead, so that high ranks learn as fast as low ones (Kalajdzievski 2023)."""
    dora: bool = False
    """Magnitudes of a layer's outputs are trained beside the adapter, which then turns directions only (Liu et al. 2024)."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of an adapter's inputs that are dropped while training; none of those of embed_tokens and lm_head."""
    targets: Annotated[list[Target], Field(min_length=1)] = list(get_args(Layer))
    """Layers that get an adapter; in a model with experts, only those of attention do. embed_tokens and lm_head are what is read
    and what is said: where they are tied, the merged model has both."""
    quantize: Literal["none", "int8"] = "none"
    """int8: the frozen layers are kept as int8, a quarter of the memory; the merged model has their rounding."""

    @property
    def factor(self) -> float:
        return (self.alpha or 2 * self.rank) / (math.sqrt(self.rank) if self.rslora else self.rank)


class ModelShape(Strict):
    """A decoder-only transformer: RMSNorm, rotary positions, grouped-query attention, SwiGLU."""

    dim: Annotated[int, Field(gt=0, le=2**20)] = 256
    """Width of the numbers that go from block to block."""
    layers: Annotated[int, Field(gt=0, le=10_000)] = 6
    """Blocks, one after the other."""
    heads: Annotated[int, Field(gt=0, le=2**16)] = 4
    """Attention heads of a block, each dim / heads wide."""
    kv_heads: Annotated[int, Field(gt=0, le=2**16)] | None = None
    """Key/value heads; None means as many as `heads`."""
    hidden: Annotated[int, Field(gt=0, le=2**24)] | None = None
    """Width of the SwiGLU layer; None means 8/3 of dim, rounded up to a multiple of 64."""
    context: Annotated[int, Field(ge=8, le=2**28)] = 256
    """Longest sequence in tokens."""
    rope_theta: Annotated[float, Field(gt=0)] = 10_000.0
    rope_scaling: RopeScaling | None = None
    tie_embeddings: bool = True
    qk_norm: bool = False
    """RMSNorm on queries and keys (saved in the Qwen3 layout instead of Llama's)."""
    moe: Moe | None = None
    """Mixture of experts (saved in the GLM-4-MoE layout)."""
    mup: bool = False
    """Width transfer (muP): the best learning rate at one width is the best at another (saved in the Granite layout)."""
    mup_base: Annotated[int, Field(gt=0)] = only(64, {"mup": "set"})
    """mup: the `dim` at which `lr` was found; there, all but attention's scale is as without mup."""


class Generation(Strict):
    """How replies are drawn where nobody says otherwise: generation_config.json, read by `chat`, transformers and vLLM."""

    temperature: Annotated[float, Field(ge=0)] = 0.7
    """0 always takes the likeliest token."""
    top_p: Annotated[float, Field(gt=0, le=1)] = only(1.0, {"temperature": "set"})
    """Draw from the likeliest tokens that have this much probability together; 1: from all."""
    top_k: Annotated[int, Field(ge=0)] = only(0, {"temperature": "set"})
    """Draw from so many of the likeliest tokens; 0: from all."""
    max_new_tokens: Annotated[int, Field(gt=0)] = 200
    """Longest reply, in tokens."""
