"""Grouped-query attention, and who may see whom. Shape letters are those of `trivium.types`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trivium.model.config import ModelConfig
from trivium.model.norms import RMSNorm
from trivium.model.rope import Angles, rotate

if TYPE_CHECKING:
    from trivium.model.cache import Cache


class Sequence(Protocol):
    """Ranks that share one row: each has a run of its places (`train.parallel.apply.Sequence`)."""

    place: int

    def gather(self, x: Tensor, dim: int) -> Tensor: ...
    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]: ...


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """softmax(scale q k') v: q (B, H, T, E), k (B, K, S, E), v (B, K, S, V), mask (B, 1, T, S) bool or None for causal.

    `scale` None means 1 / sqrt(E). `softcap` bounds the scores; `sinks` (H,) is a score more in each head's softmax. Both are
    written out: no fused kernel has them on every device.

    Training in bf16 on a CPU writes it out: the compiler fuses the softmax, and two batched products in bf16 beat the fused CPU
    kernel by a fifth at rows of 256 tokens (docs/benchmarks.md). Long rows (without the compiler: above 256) keep the
    fused kernel, which never holds T x S.
    """
    length, width = q.shape[2], q.shape[3]
    if k.dtype != q.dtype:  # a cache in float32
        with torch.autocast(q.device.type, enabled=False):
            return attend(q.to(k.dtype), k, v, mask, scale, softcap, sinks).to(q.dtype)
    written_out = q.device.type == "cpu" and q.dtype == torch.bfloat16 and torch.is_grad_enabled()
    plain = softcap is None and sinks is None
    if plain and (not written_out or length > (1024 if torch.compiler.is_compiling() else 256)):
        grouped = q.shape[1] != k.shape[1]
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=grouped, scale=scale
        )
    repeats = q.shape[1] // k.shape[1]
    if repeats > 1:
        k, v = k.repeat_interleave(repeats, dim=1), v.repeat_interleave(repeats, dim=1)
    if mask is None:
        mask = torch.ones(length, length, dtype=torch.bool, device=q.device).tril()
    scores = torch.matmul(q * (scale or width**-0.5), k.transpose(-1, -2))
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~mask, -1e30)
    if sinks is not None:
        beside = sinks.to(scores.dtype)[None, :, None, None].expand(*scores.shape[:-1], 1)
        scores = torch.cat((scores, beside), dim=-1)
    # without the compiler, a softmax in float32 would be kept for the way back beside its copy in bf16
    wide = torch.float32 if torch.compiler.is_compiling() or not plain else None
    shares = scores.softmax(-1, dtype=wide).to(v.dtype)
    return torch.matmul(shares if sinks is None else shares[..., :-1], v)


class Attention(nn.Module):
    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.scale, self.turned = config.attention_scale, layer not in config.no_rope
        self.softcap, self.norm_whole = config.attention_softcap, config.qk_norm_whole
        self.heads, self.kv_heads, self.head_dim = config.heads, config.kv_heads, config.head_dim
        self.q_proj = nn.Linear(config.dim, config.heads * config.head_dim, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.dim, config.kv_heads * config.head_dim, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.dim, config.kv_heads * config.head_dim, bias=config.qkv_bias)
        self.o_proj = nn.Linear(config.heads * config.head_dim, config.dim, bias=config.output_bias)
        if config.qk_norm:
            heads, kv_heads = (config.heads, config.kv_heads) if config.qk_norm_whole else (1, 1)
            self.q_norm = RMSNorm(heads * config.head_dim, config.norm_eps)
            self.k_norm = RMSNorm(kv_heads * config.head_dim, config.norm_eps)
        if config.sinks:
            self.sinks = nn.Parameter(torch.zeros(config.heads))

    def forward(
        self,
        x: Tensor,
        angles: Angles,
        mask: Tensor | None,
        cache: Cache | Sequence | None,
        layer: int,
    ) -> Tensor:
        """x (B, T, D); mask (B, 1, T, S) bool, True where a query may look, or None for plain causal."""
        rows, length, _ = x.shape
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        if self.norm_whole:
            q, k = self.q_norm(q), self.k_norm(k)
        q = q.view(rows, length, -1, self.head_dim).transpose(1, 2)
        k = k.view(rows, length, -1, self.head_dim).transpose(1, 2)
        v = v.view(rows, length, -1, self.head_dim).transpose(1, 2)
        if hasattr(self, "q_norm") and not self.norm_whole:
            q, k = self.q_norm(q), self.k_norm(k)
        if self.turned:
            q, k = rotate(q, angles.cos, angles.sin), rotate(k, angles.cos, angles.sin)
        if angles.growth is not None:
            q = q * angles.growth.to(q.dtype)
        if cache is not None:
            k, v = cache.extend(layer, k, v)
        seen = attend(q, k, v, mask, self.scale, self.softcap, getattr(self, "sinks", None))
        out: Tensor = self.o_proj(seen.transpose(1, 2).reshape(rows, length, -1))
        return out


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
