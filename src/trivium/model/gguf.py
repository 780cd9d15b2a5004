"""Models from GGUF files: the weights dequantised to float32, names and orders put back as Hugging Face has them.

Read with the `gguf` package (extra `gguf`): https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trivium.errors import ArtifactError, TriviumError
from trivium.model.config import ModelConfig
from trivium.model.rope import frequencies, yarn_factor
from trivium.model.source import parts
from trivium.recipe.network import RopeScaling

FAMILIES = ("llama", "qwen2", "qwen3", "smollm3", "granite")
"""`general.architecture` of the files that can be read."""
PERMUTED = frozenset({"llama", "smollm3", "granite"})
"""Families whose rows of Q and K stand in the order of interleaved rotary pairs."""

OUTER = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
INNER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_BROKEN = (
    ValueError,
    IndexError,
    KeyError,
    OverflowError,
    TypeError,
    MemoryError,
    EOFError,
    OSError,
    ZeroDivisionError,
)
"""What the reader raises for bytes that are no GGUF."""


def open_parts(path: Path) -> list[Any]:
    """The readers of a model's file, or of all the files that it was split into, the first one first. ArtifactError for a part
    that is missing, or belongs to another model, or as in `open_file`."""
    readers = [open_file(part) for part in parts(path)]
    told = [metadata(reader) for reader in readers]
    first = told[0]
    try:
        count = int(first.get("split.count", 1) or 1)
        numbers = [int(meta.get("split.no", 0)) for meta in told]
    except _BROKEN as error:
        raise ArtifactError(f"the GGUF file does not say its parts: {error}", where=str(path)) from None
    if count != len(readers) or numbers != list(range(len(readers))):
        raise ArtifactError(
            f"the model lies in {count} files, of which these are numbers {', '.join(str(n + 1) for n in numbers)}",
            where=str(path),
            fix="put all its parts beside each other under their own names, as NAME-00001-of-00003.gguf",
        )
    tensors = sum(len(reader.tensors) for reader in readers)
    if first.get("split.tensors.count", tensors) != tensors:
        expected = first["split.tensors.count"]
        raise ArtifactError(f"the parts hold {tensors} tensors instead of {expected}", where=str(path))
    return readers


def open_file(path: Path) -> Any:
    """A `gguf.GGUFReader`. ArtifactError for what is no GGUF or is cut short; TriviumError without the package."""
    try:
        from gguf import GGUFReader
    except ImportError:
        raise TriviumError("reading GGUF needs a package", fix="pip install 'trivium[gguf]'") from None
    try:
        with np.errstate(over="ignore"):  # garbage sizes overflow on the way to the reader's own error
            reader = GGUFReader(path)
    except _BROKEN as error:
        fix = "the file is cut short or no GGUF: copy it again"
        raise ArtifactError(f"the GGUF file cannot be read: {error}", where=str(path), fix=fix) from None
    return reader


def metadata(reader: Any) -> dict[str, Any]:
    """The file's keys and values as plain Python values. ArtifactError for one that is none, such as text that is no UTF-8."""
    found = {}
    for name, field in reader.fields.items():
        try:
            found[name] = field.contents()
        except _BROKEN as error:
            said = f"{name} of the GGUF file cannot be read: {error}"
            raise ArtifactError(said, where=str(reader.data.filename), fix="copy the file again") from None
    return found


def read(readers: Sequence[Any], meta: dict[str, Any], path: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """(the model's shape, its state dict in float32). ArtifactError for another architecture or a damaged file."""
    family = meta.get("general.architecture")
    if family not in FAMILIES:
        fix = f"use a file of one of these: {', '.join(FAMILIES)}"
        raise ArtifactError(f"the checkpoint's architecture is {family!r}", where=str(path), fix=fix)
    try:
        state = {name: tensor for reader in readers for name, tensor in _tensors(reader).items()}
        config = _config(meta, family, state)
    except NotImplementedError as error:
        raise ArtifactError(
            f"the GGUF file's weights are of a type that cannot be read: {error}",
            where=str(path),
            fix="use a file of another type, such as Q8_0 or BF16",
        ) from None
    except KeyError as error:
        raise ArtifactError(f"the GGUF file has no {error}", where=str(path)) from None
    except _BROKEN as error:
        raise ArtifactError(f"the GGUF file is damaged: {error}", where=str(path)) from None
    factors = state.pop("rope_freqs", None)
    if factors is not None:
        object.__setattr__(config, "rope_scaling", _llama3(config, factors, path))
    if family in PERMUTED:
        for name, tensor in state.items():
            if (found := re.search(r"\.([qk])_proj\.", name)) is not None:
                state[name] = unpermute(tensor, config.heads if found[1] == "q" else config.kv_heads)
    return config, state


def _tensors(reader: Any) -> dict[str, Tensor]:
    from gguf.quants import dequantize

    state = {}
    for tensor in reader.tensors:
        values = torch.from_numpy(np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32))
        state[_name(tensor.name)] = values.reshape([int(size) for size in reversed(tensor.shape)])
    return state


def _name(name: str) -> str:
    """`blk.3.attn_q.weight` -> `model.layers.3.self_attn.q_proj.weight`; a name that is not known stays."""
    if name == "rope_freqs.weight":
        return "rope_freqs"
    if found := re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name):
        return f"model.layers.{found[1]}.{INNER.get(found[2], found[2])}.{found[3]}"
    stem, _, kind = name.rpartition(".")
    return f"{OUTER.get(stem, stem)}.{kind}"


def unpermute(rows: Tensor, heads: int) -> Tensor:
    """Rows (or a bias) of Q or K from interleaved pairs to halves: the inverse of llama.cpp's permutation."""
    halves = rows.reshape(heads, rows.shape[0] // heads // 2, 2, *rows.shape[1:])
    return halves.transpose(1, 2).reshape(rows.shape).contiguous()


def permute(rows: Tensor, heads: int) -> Tensor:
    """The other way round: rows in halves to interleaved pairs, as the llama architecture of GGUF wants them."""
    pairs = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return pairs.transpose(1, 2).reshape(rows.shape).contiguous()


def _config(meta: dict[str, Any], family: str, state: dict[str, Tensor]) -> ModelConfig:
    def of(key: str, default: Any = None) -> Any:
        return meta[f"{family}.{key}"] if default is None else meta.get(f"{family}.{key}", default)

    dim, layers, heads = of("embedding_length"), of("block_count"), of("attention.head_count")
    head_dim = of("attention.key_length", dim // max(heads, 1))
    if of("rope.dimension_count", head_dim) != head_dim:
        raise ArtifactError("the checkpoint turns only part of each head", fix="use another one")
    scales: dict[str, Any] = {}
    if family == "granite":
        scales = {
            "attention_scale": of("attention.scale"),
            "embedding_scale": of("embedding_scale", 1.0),
            "residual_scale": of("residual_scale", 1.0),
            "logit_scale": 1 / of("logit_scale", 1.0),
        }
    return ModelConfig(
        vocab_size=state["model.embed_tokens.weight"].shape[0],
        dim=dim,
        layers=layers,
        heads=heads,
        kv_heads=of("attention.head_count_kv", heads),
        head_dim=head_dim,
        hidden=of("feed_forward_length"),
        context=of("context_length"),
        rope_theta=float(of("rope.freq_base", 10_000.0)),
        norm_eps=round(float(of("attention.layer_norm_rms_epsilon")), 12),
        tie_embeddings="lm_head.weight" not in state,
        qk_norm="model.layers.0.self_attn.q_norm.weight" in state,
        qkv_bias="model.layers.0.self_attn.q_proj.bias" in state,
        output_bias="model.layers.0.self_attn.o_proj.bias" in state,
        mlp_bias="model.layers.0.mlp.up_proj.bias" in state,
        rope_scaling=_scaling(lambda key: meta.get(f"{family}.rope.{key}")),
        no_rope=frozenset(range(3, layers, 4)) if family == "smollm3" else frozenset(),
        **scales,
    )


def _scaling(of: Callable[[str], Any]) -> RopeScaling | None:
    """What llama.cpp makes of the keys: a factor without a kind is linear, also under the key of old files."""
    factor = float(of("scaling.factor") or of("scale_linear") or 1.0)
    kind = of("scaling.type") or "linear"
    if kind == "none" or (kind == "linear" and factor == 1.0):
        return None
    if kind not in ("linear", "yarn") or (of("scaling.alpha") or 0.0) != 0.0:
        raise ArtifactError(
            f"the GGUF file slows rotary positions by {kind!r}", fix="use one with linear or yarn"
        )
    sharper = float(of("scaling.attn_factor") or 1.0) * float(of("scaling.yarn_attn_factor") or 1.0)
    if kind == "linear":
        if sharper != 1.0:
            raise ArtifactError("the GGUF file has an attention factor without yarn", fix="use another one")
        return RopeScaling(kind="linear", factor=factor)
    if (of("scaling.yarn_ext_factor") or 1.0) not in (1.0, -1.0) or of("scaling.yarn_log_multiplier"):
        raise ArtifactError("the GGUF file has a yarn of its own kind", fix="use another one")
    return RopeScaling(
        kind="yarn",
        factor=factor,
        original=of("scaling.original_context_length"),
        beta_fast=of("scaling.yarn_beta_fast") or 32.0,
        beta_slow=of("scaling.yarn_beta_slow") or 1.0,
        attention=None if sharper == 1.0 else sharper * yarn_factor(factor),
    )


def _llama3(config: ModelConfig, factors: Tensor, path: Path) -> RopeScaling:
    """The scaling whose divisors of the frequencies the file holds. ArtifactError if it is none of Llama 3's."""
    for original in (8192, config.context):
        scaling = RopeScaling(kind="llama3", factor=max(1.0, float(factors.max())), original=original)
        made = ModelConfig(**{**vars(config), "rope_scaling": scaling})
        plain = ModelConfig(**{**vars(config), "rope_scaling": None})
        divisors = frequencies(plain)[0] / frequencies(made)[0]
        if factors.shape == divisors.shape and math.isclose(
            0, float((divisors / factors - 1).abs().max()), abs_tol=1e-3
        ):
            return scaling
    raise ArtifactError("the GGUF file slows rotary positions in a way of its own", where=str(path))
