"""Rotary positions as `config.json` spells them: `rope_theta`, `rope_parameters` or `rope_scaling`, flat or by kind of layer.

Where a file has both blocks, `rope_scaling` wins and nothing of the other is read, as in transformers 5. A key that would not be
used is an error: a rope that is read wrongly costs quality without a word.
"""

from __future__ import annotations

import math
from typing import Any

from trivium.errors import ArtifactError
from trivium.model.config import ModelConfig, Rope
from trivium.model.rope import yarn_factor
from trivium.recipe.network import RopeScaling

KEYS: dict[str, frozenset[str]] = {
    "default": frozenset(),
    "linear": frozenset({"factor"}),
    "llama3": frozenset({"factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"}),
    "yarn": frozenset(
        {
            "factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "attention_factor", "mscale",
            "mscale_all_dim", "truncate", "llama_4_scaling_beta", "max_position_embeddings",
        }
    ),
    "longrope": frozenset(
        {"factor", "original_max_position_embeddings", "attention_factor", "short_factor", "long_factor"}
    ),
}  # fmt: skip
"""Kind -> what its block may hold beside the kind, the base and the turned part of a head."""
_COMMON = frozenset({"type", "rope_type", "rope_theta", "partial_rotary_factor"})
FULL, SLIDING = "full_attention", "sliding_attention"

Raw = dict[str, Any]


def blocks(raw: Raw, *, nested: bool) -> tuple[Raw, Raw | None]:
    """The blocks of the layers without and with a window; None: one block for all. `nested`: the family has two."""
    scaling, parameters = raw.get("rope_scaling") or {}, raw.get("rope_parameters") or {}
    if not nested:
        return scaling or parameters, None
    if unknown := sorted(set(parameters) - {FULL, SLIDING}):
        raise ArtifactError(
            f"`rope_parameters` has unknown keys: {', '.join(unknown)}", fix=f"use {FULL} and {SLIDING}"
        )
    return {**(parameters.get(FULL) or {}), **scaling}, parameters.get(SLIDING) or {}


def kind_of(block: Raw) -> str:
    """What a block calls its kind; "su" is what longrope was called first."""
    kind = str(block.get("rope_type") or block.get("type") or "default")
    return "longrope" if kind == "su" else kind


def read(block: Raw, raw: Raw, theta: float) -> Rope:
    """The rope of a block; `theta` is its base where neither the block nor, without one, the file says."""
    kind = kind_of(block)
    if kind not in KEYS:
        raise ArtifactError(
            f"the checkpoint's rotary positions are {kind!r}",
            fix=f"use a checkpoint with one of these: {', '.join(KEYS)}",
        )
    given = {key for key, value in block.items() if value is not None}
    if unknown := sorted(given - KEYS[kind] - _COMMON):
        raise ArtifactError(
            f"the {kind} rotary positions of the checkpoint have unknown keys: {', '.join(unknown)}",
            fix="remove them if they mean nothing, or use a checkpoint whose rotary positions are known",
        )
    return Rope(float(block.get("rope_theta") or theta), _scaling(kind, block, raw))


def _scaling(kind: str, block: Raw, raw: Raw) -> RopeScaling | None:
    if kind == "default":
        return None
    if kind == "linear":
        return RopeScaling(kind="linear", factor=float(block["factor"]))
    original = block.get("original_max_position_embeddings") or raw["max_position_embeddings"]
    if kind == "longrope":  # the file's own number goes before the block's (transformers)
        original = raw.get("original_max_position_embeddings") or original
    fields: Raw = {"kind": kind, "factor": block.get("factor"), "original": original}
    if fields["factor"] is None:
        fields["factor"] = raw["max_position_embeddings"] / original
    if kind == "llama3":
        fields |= {"low": block["low_freq_factor"], "high": block["high_freq_factor"]}
    elif kind == "longrope":
        fields |= {
            "short": block["short_factor"],
            "long": block["long_factor"],
            "factor": max(1.0, fields["factor"]),
        }
        fields["attention"] = block.get("attention_factor")
    else:
        fields |= {"beta_fast": block.get("beta_fast") or 32.0, "beta_slow": block.get("beta_slow") or 1.0}
        fields |= {"attention": _attention(block, fields["factor"]), "truncate": block.get("truncate", True)}
    return RopeScaling.model_validate(fields)


def _attention(block: Raw, factor: float) -> float | None:
    """What cosines and sines are multiplied by; None where it is yarn's own. DeepSeek's two `mscale` are one ratio."""
    named: float | None = block.get("attention_factor")
    if named is not None:
        return float(named)
    above, below = block.get("mscale"), block.get("mscale_all_dim")
    return yarn_factor(factor, above) / yarn_factor(factor, below) if above and below else None


def turned(block: Raw, raw: Raw, head_dim: int, default: float = 1.0) -> int:
    """Numbers of a head that are turned."""
    part = block.get("partial_rotary_factor", raw.get("partial_rotary_factor"))
    return int(head_dim * float(default if part is None else part))


def write(rope: Rope, config: ModelConfig, *, part: bool = False) -> Raw:
    """A block of `rope_parameters`; `part`: with the share of each head that is turned, also where it is all."""
    scaling = rope.scaling
    block: Raw = {"rope_type": "default" if scaling is None else scaling.kind, "rope_theta": rope.theta}
    if scaling is not None:
        block["factor"] = scaling.factor
        if scaling.kind != "linear":
            block["original_max_position_embeddings"] = scaling.original
        if scaling.kind == "llama3":
            block |= {"low_freq_factor": scaling.low, "high_freq_factor": scaling.high}
        if scaling.kind == "yarn":
            block |= {"beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow}
            block["truncate"] = scaling.truncate
        if scaling.kind == "longrope":
            block |= {"short_factor": list(scaling.short), "long_factor": list(scaling.long)}
        if scaling.attention is not None:
            block["attention_factor"] = scaling.attention
    if part or config.rotary is not None:
        share = config.turned / config.head_dim
        while int(config.head_dim * share) < config.turned:  # readers cut the product
            share = math.nextafter(share, 1)
        block["partial_rotary_factor"] = share
    return block
