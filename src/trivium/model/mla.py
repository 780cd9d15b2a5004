"""Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1): keys and values come from one narrow vector a token.

Names are those of DeepSeek-V3's files. While a model writes, only the narrow vector and the turned part of the keys are kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from trivium.model.attention import Sequence, attend
from trivium.model.config import Latent, ModelConfig
from trivium.model.norms import RMSNorm
from trivium.model.rope import Angles, rotate

if TYPE_CHECKING:
    from trivium.model.cache import Cache

EPS = 1e-6
"""Of the norms of the narrow vectors, whatever the config says of the others (transformers' DeepSeek-V3)."""


class LatentAttention(nn.Module):
    def __init__(self, config: ModelConfig, latent: Latent) -> None:
        super().__init__()
        self.heads, self.latent, self.scale = config.heads, latent, config.attention_scale
        width = latent.plain + latent.turned
        if latent.q_rank is None:
            self.q_proj = nn.Linear(config.dim, config.heads * width, bias=False)
        else:
            self.q_a_proj = nn.Linear(config.dim, latent.q_rank, bias=config.qkv_bias)
            self.q_a_layernorm = RMSNorm(latent.q_rank, EPS)
            self.q_b_proj = nn.Linear(latent.q_rank, config.heads * width, bias=False)
        narrow = latent.kv_rank + latent.turned
        self.kv_a_proj_with_mqa = nn.Linear(config.dim, narrow, bias=config.qkv_bias)
        self.kv_a_layernorm = RMSNorm(latent.kv_rank, EPS)
        self.kv_b_proj = nn.Linear(latent.kv_rank, config.heads * (latent.plain + latent.value), bias=False)
        self.o_proj = nn.Linear(config.heads * latent.value, config.dim, bias=config.output_bias)

    def forward(
        self, x: Tensor, angles: Angles, mask: Tensor | None, cache: Cache | Sequence | None, layer: int
    ) -> Tensor:
        """x (B, T, D); mask (B, 1, T, S) bool, True where a query may look, or None for plain causal."""
        latent, (rows, length, _) = self.latent, x.shape
        narrow = (
            self.q_proj(x) if latent.q_rank is None else self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x)))
        )
        q = narrow.view(rows, length, self.heads, -1).transpose(1, 2)
        plain, turned = q.split((latent.plain, latent.turned), dim=-1)
        q = torch.cat((plain, rotate(turned, angles.cos, angles.sin)), dim=-1)
        shared, key = self.kv_a_proj_with_mqa(x)[:, None].split((latent.kv_rank, latent.turned), dim=-1)
        shared, key = self.kv_a_layernorm(shared), rotate(key, angles.cos, angles.sin)
        if cache is not None:
            shared, key = cache.extend(layer, shared, key)
        shared, key = shared.to(x.dtype), key.to(q.dtype)
        both = self.kv_b_proj(shared[:, 0]).view(rows, shared.shape[2], self.heads, -1).transpose(1, 2)
        keys, values = both.split((latent.plain, latent.value), dim=-1)
        keys = torch.cat((keys, key.expand(-1, self.heads, -1, -1)), dim=-1)
        seen = attend(q, keys, values, mask, self.scale)
        out: Tensor = self.o_proj(seen.transpose(1, 2).reshape(rows, length, -1))
        return out
