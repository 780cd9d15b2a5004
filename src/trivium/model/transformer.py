"""The one transformer: RMSNorm, rotary positions, grouped-query attention, SwiGLU. Module names are Llama's, so that the
state dict is the Hugging Face layout as it stands.

Shape letters are those of `trivium.types`.
"""

from __future__ import annotations

import math
from collections.abc import Set
from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trivium.model.compact import compact
from trivium.model.config import ModelConfig
from trivium.model.heads import log_probs, log_probs_and_entropy, log_probs_and_z
from trivium.model.moe import MixtureOfExperts
from trivium.model.rope import once, rotary, rotate
from trivium.model.swiglu import SwiGLU
from trivium.types import Batch, Output

if TYPE_CHECKING:
    from trivium.model.cache import Cache


GRAIN = 128
"""Places whose numbers are wanted are computed in multiples of this many."""


class Sequence(Protocol):
    """Ranks that share one row: each has a run of its places (`train.parallel.apply.Sequence`)."""

    place: int

    def gather(self, x: Tensor, dim: int) -> Tensor: ...
    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]: ...


class RMSNorm(nn.Module):
    """Zhang & Sennrich 2019: x / rms(x) * weight, computed in float32."""

    def __init__(self, dim: int, eps: float, scale: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps, self.scale = eps, scale

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        root = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return _scaled(wide * root * self.weight.float(), self.scale).to(x.dtype)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None = None) -> Tensor:
    """softmax(scale q k') v: q (B, H, T, E), k and v (B, K, S, E), mask (B, 1, T, S) bool or None for causal.

    `scale` None means 1 / sqrt(E).

    Training in bf16 on a CPU writes it out: the compiler fuses the softmax, and two batched products in bf16 beat the fused CPU
    kernel by a fifth at rows of 256 tokens (docs/benchmarks.md). Long rows (without the compiler: above 256) keep the
    fused kernel, which never holds T x S.
    """
    length, width = q.shape[2], q.shape[3]
    if k.dtype != q.dtype:  # a cache in float32
        with torch.autocast(q.device.type, enabled=False):
            return attend(q.to(k.dtype), k, v, mask, scale).to(q.dtype)
    written_out = q.device.type == "cpu" and q.dtype == torch.bfloat16 and torch.is_grad_enabled()
    if not written_out or length > (1024 if torch.compiler.is_compiling() else 256):
        grouped = q.shape[1] != k.shape[1]
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=grouped, scale=scale
        )
    repeats = q.shape[1] // k.shape[1]
    if repeats > 1:
        k, v = k.repeat_interleave(repeats, dim=1), v.repeat_interleave(repeats, dim=1)
    if mask is None:
        mask = torch.ones(length, length, dtype=torch.bool, device=q.device).tril()
    scores = torch.matmul(q * (scale or width**-0.5), k.transpose(-1, -2)).masked_fill(~mask, -1e30)
    # without the compiler, a softmax in float32 would be kept for the way back beside its copy in bf16
    wide = torch.float32 if torch.compiler.is_compiling() else None
    return torch.matmul(scores.softmax(-1, dtype=wide).to(v.dtype), v)


class Attention(nn.Module):
    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.scale, self.turned = config.attention_scale, layer not in config.no_rope
        self.heads, self.kv_heads, self.head_dim = config.heads, config.kv_heads, config.head_dim
        self.q_proj = nn.Linear(config.dim, config.heads * config.head_dim, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.dim, config.kv_heads * config.head_dim, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.dim, config.kv_heads * config.head_dim, bias=config.qkv_bias)
        self.o_proj = nn.Linear(config.heads * config.head_dim, config.dim, bias=config.output_bias)
        if config.qk_norm:
            self.q_norm = RMSNorm(config.head_dim, config.norm_eps)
            self.k_norm = RMSNorm(config.head_dim, config.norm_eps)

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor | None,
        cache: Cache | Sequence | None,
        layer: int,
    ) -> Tensor:
        """x (B, T, D); mask (B, 1, T, S) bool, True where a query may look, or None for plain causal."""
        rows, length, _ = x.shape
        q = self.q_proj(x).view(rows, length, -1, self.head_dim).transpose(1, 2)
        k = self.k_proj(x).view(rows, length, -1, self.head_dim).transpose(1, 2)
        v = self.v_proj(x).view(rows, length, -1, self.head_dim).transpose(1, 2)
        if hasattr(self, "q_norm"):
            q, k = self.q_norm(q), self.k_norm(k)
        if self.turned:
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if cache is not None:
            k, v = cache.extend(layer, k, v)
        seen = attend(q, k, v, mask, self.scale)
        out: Tensor = self.o_proj(seen.transpose(1, 2).reshape(rows, length, -1))
        return out


class Block(nn.Module):
    def __init__(self, config: ModelConfig, layer: int = 0) -> None:
        super().__init__()
        self.residual_scale = config.residual_scale
        self.windowed = layer in config.windowed
        self.input_layernorm = RMSNorm(config.dim, config.norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.dim, config.norm_eps)
        self.mlp: nn.Module
        if config.experts is not None and layer >= config.experts.dense:
            self.mlp = MixtureOfExperts(config.dim, config.experts)
        else:
            self.mlp = SwiGLU(config.dim, config.hidden, config.mlp_bias)

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor | None,
        cache: Cache | Sequence | None,
        layer: int,
    ) -> Tensor:
        share = self.residual_scale
        x = x + _scaled(self.self_attn(self.input_layernorm(x), cos, sin, mask, cache, layer), share)
        return x + _scaled(self.mlp(self.post_attention_layernorm(x)), share)


def _scaled(x: Tensor, factor: float) -> Tensor:
    return x if factor == 1.0 else x * factor


class Decoder(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.norm = RMSNorm(config.dim, config.norm_eps, config.logit_scale)
        self.sequence: Sequence | None = None  # set by train.parallel where rows are cut along time


class Transformer(nn.Module):
    """A decoder-only language model. `lm_head` is absent where the embeddings are tied."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.ragged = True  # False: every pass has the shape of its batch
        self.recompute = False  # blocks: forget what is inside them and compute it again on the way back
        self.model = Decoder(config)
        if not config.tie_embeddings:
            self.lm_head = nn.Linear(config.dim, config.vocab_size, bias=False)

    @property
    def output_weight(self) -> Tensor:
        return self.model.embed_tokens.weight if self.config.tie_embeddings else self.lm_head.weight

    def initialise(self, generator: torch.Generator) -> None:
        """Normal with deviation 0.02; what feeds the residual stream is divided by sqrt(2 x layers) (GPT-2).

        Under muP (Yang et al. 2022, table 8) the matrices of the blocks are divided by the root of the width's ratio.
        """
        inside = 0.02 / math.sqrt(self.config.width_ratio)
        residual = inside / math.sqrt(2 * self.config.layers)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                deep = name.endswith(("o_proj.weight", "down_proj.weight"))
                usual = inside if name.startswith("model.layers.") else 0.02
                nn.init.normal_(parameter, std=residual if deep else usual, generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.ones_(parameter)

    def hidden(
        self, tokens: Tensor, positions: Tensor, mask: Tensor | None, cache: Cache | None = None
    ) -> Tensor:
        """Final hidden states: tokens (B, T) int64, positions (B, T) int64 -> (B, T, D)."""
        normed: Tensor = self.model.norm(self.through(self.embed(tokens), positions, mask, cache))
        return normed

    def embed(self, tokens: Tensor) -> Tensor:
        """(B, T) int64 -> (B, T, D): the residual stream, in bf16 under autocast: half the traffic."""
        x: Tensor = _scaled(self.model.embed_tokens(tokens), self.config.embedding_scale)
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        return x

    def through(
        self, x: Tensor, positions: Tensor, mask: Tensor | None, cache: Cache | None = None
    ) -> Tensor:
        """The residual stream through all blocks: (B, T, D) -> (B, T, D)."""
        cos, sin = map(once, rotary(positions, self.config))
        mask = mask if mask is None else once(mask)
        near = mask
        if self.config.window is not None:
            cut = self.model.sequence
            first = None if cut is None else cut.place * x.shape[1]
            near = window_mask(mask, x, first, self.config.window, getattr(cache, "query_places", None))
        again = self.recompute and torch.is_grad_enabled()
        for index, block in enumerate(self.model.layers):
            seen = near if block.windowed else mask
            inputs = (x, cos, sin, seen, cache or self.model.sequence, index)
            x = checkpoint(block, *inputs, use_reentrant=False) if again else block(*inputs)
        return x

    def forward(self, batch: Batch, want: Set[str]) -> Output:
        """One training or scoring pass: `want` names the fields of Output to fill (`logp`, `logits`, `entropy`).

        Attention is causal and, where the batch has `doc_id` (B, T), stays inside equal values of it.
        """
        return self.outputs(self.states(batch), batch, want)

    def states(self, batch: Batch) -> Tensor:
        """Final hidden states of a batch: (B, T, D); those of padding say nothing.

        Padding, and the second copy of a pair's prompt, are not computed, except where shapes have to stay: compiled, or cut
        over ranks.
        """
        if "doc_id" in batch and self._may_change_shape:
            layout = compact(batch, self.config.dim)
            if layout is not None:
                source = layout.source
                tokens, positions = batch["tokens"].flatten()[source], batch["positions"].flatten()[source]
                hidden = self.hidden(tokens, positions, layout.mask).flatten(0, 1)
                return hidden.index_select(0, layout.back.flatten()).view(*layout.back.shape, -1)
        mask = document_mask(batch["doc_id"], self.model.sequence) if "doc_id" in batch else None
        return self.hidden(batch["tokens"], batch["positions"], mask)

    @property
    def _may_change_shape(self) -> bool:
        # experts count the tokens they get: the same ones in every layout over ranks
        whole = self.model.sequence is None and self.config.window is None and self.config.experts is None
        return self.ragged and whole and not torch.compiler.is_compiling()

    def outputs(self, hidden: Tensor, batch: Batch, want: Set[str]) -> Output:
        """What `want` names, from final hidden states (B, T, D). Numbers of single targets are 0 where `loss_mask` is."""
        if "logits" in want:
            logits = F.linear(hidden, self.output_weight).float()
            if want == {"logits"}:
                return Output(logits=logits)
            return self.outputs(hidden, batch, want - {"logits"})._replace(logits=logits)
        on = batch["loss_mask"] > 0 if "loss_mask" in batch and self._may_change_shape else None
        if on is None or bool(on.all()):
            return self._outputs(hidden, batch["targets"], want)
        places = on.flatten().nonzero().flatten()
        # a few sizes instead of any: a CPU's kernels are made, and kept, for each
        filled = F.pad(places, (0, -len(places) % GRAIN))
        some = self._outputs(
            hidden.flatten(0, 1)[filled][None], batch["targets"].flatten()[filled][None], want
        )
        return Output(*(x if x is None else _back(x[0, : len(places)], on) for x in some))

    def _outputs(self, hidden: Tensor, targets: Tensor, want: Set[str]) -> Output:
        weight = self.output_weight
        if "entropy" in want:
            both = log_probs_and_entropy(hidden, weight, targets)
            return Output(logp=both[0], entropy=both[1])
        logp: Tensor | None = None
        log_z: Tensor | None = None
        if "log_z" in want:
            logp, log_z = log_probs_and_z(hidden, weight, targets)
        elif "logp" in want:
            logp = log_probs(hidden, weight, targets)
        return Output(logp=logp, log_z=log_z)


def _back(values: Tensor, on: Tensor) -> Tensor:
    """Values (N,) at the places where `on` (B, T) is set, 0 elsewhere: (B, T)."""
    return torch.zeros(on.shape, dtype=values.dtype, device=on.device).masked_scatter(on, values)


def document_mask(doc_id: Tensor, sequence: Sequence | None = None) -> Tensor:
    """(B, T) -> (B, 1, T, S) bool: a query sees earlier tokens of its own document. S is T, or all of a row cut along time."""
    keys = doc_id if sequence is None else sequence.gather(doc_id, 1)
    first = 0 if sequence is None else sequence.place * doc_id.shape[1]
    causal = torch.ones(doc_id.shape[1], keys.shape[1], dtype=torch.bool, device=doc_id.device).tril(first)
    return ((doc_id[:, :, None] == keys[:, None, :]) & causal)[:, None]


def window_mask(
    mask: Tensor | None, x: Tensor, first: int | None, window: int, places: Tensor | None = None
) -> Tensor:
    """`mask` (B, 1, T, S), None for causal, without what lies `window` or more places back; x is (B, T, D).

    `first`: the place of the first query in a row that is cut along time; None: the queries are the last T of S places.
    `places` (B, T): where the queries stand among the keys, where rows differ in that (slots of a continuous batch).
    """
    length = x.shape[1]
    keys = length if mask is None else mask.shape[-1]
    query = torch.arange(length, device=x.device)[:, None] + (keys - length if first is None else first)
    key = torch.arange(keys, device=x.device)[None]
    if places is not None:
        query, key = places[:, None, :, None], key[None, None]
    near = (key <= query) & (key > query - window)
    if places is None:
        near = near[None, None]
    return near if mask is None else mask & near
