"""Models as GGUF files: names, orders and keys as llama.cpp has them; what `gguf` reads, the other way round."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from trivium.errors import ArtifactError, TriviumError
from trivium.model import ggml
from trivium.model.config import ModelConfig
from trivium.model.families import family
from trivium.model.gguf import FAMILIES, INNER, OUTER, PERMUTED, permute
from trivium.model.rope import frequencies, yarn_factor
from trivium.model.transformer import Transformer
from trivium.recipe.deployment import GgufType

_NAMES = {ours: theirs for theirs, ours in {**OUTER, **INNER}.items()}


class Written(NamedTuple):
    """What a file holds: format -> number of tensors in it; weights; their bytes."""

    mix: dict[str, int]
    parameters: int
    bytes: int

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.bytes / self.parameters


def writer(path: Any, config: ModelConfig) -> Any:
    """A `gguf.GGUFWriter` of the model's architecture. ArtifactError for a family that llama.cpp's files are not written for."""
    try:
        from gguf import GGUFWriter
    except ImportError:
        raise TriviumError("writing GGUF needs a package", fix="pip install 'trivium[gguf]'") from None
    name = family(config)
    if name not in FAMILIES or config.windowed:
        windows = " with windows" if config.windowed and name in FAMILIES else ""
        raise ArtifactError(
            f"the model is a {name}{windows}, and GGUF is written for {', '.join(FAMILIES)}",
            fix="use the Hugging Face folder, which every stage writes",
        )
    return GGUFWriter(path, name)


def add_shape(made: Any, config: ModelConfig) -> None:
    """The keys that say what network it is."""
    made.add_vocab_size(config.vocab_size)
    made.add_context_length(config.context)
    made.add_embedding_length(config.dim)
    made.add_block_count(config.layers)
    made.add_feed_forward_length(config.hidden)
    made.add_head_count(config.heads)
    made.add_head_count_kv(config.kv_heads)
    made.add_key_length(config.head_dim)
    made.add_value_length(config.head_dim)
    made.add_layer_norm_rms_eps(config.norm_eps)
    made.add_rope_dimension_count(config.head_dim)
    made.add_rope_freq_base(config.rope_theta)
    if made.arch == "granite":
        made.add_attention_scale(config.attention_scale or config.head_dim**-0.5)
        made.add_embedding_scale(config.embedding_scale)
        made.add_residual_scale(config.residual_scale)
        made.add_logit_scale(1 / config.logit_scale)
    _add_scaling(made, config)


def _add_scaling(made: Any, config: ModelConfig) -> None:
    from gguf import RopeScalingType

    scaling = config.rope_scaling
    if scaling is None or scaling.kind == "llama3":  # whose divisors are a tensor
        return
    made.add_rope_scaling_type(RopeScalingType(scaling.kind))
    made.add_rope_scaling_factor(scaling.factor)
    if scaling.kind == "yarn":
        if not scaling.truncate:
            raise ArtifactError("GGUF has no yarn whose ramp is not rounded", fix="use the folder")
        made.add_rope_scaling_orig_ctx_len(scaling.original)
        made.add_rope_scaling_yarn_beta_fast(scaling.beta_fast)
        made.add_rope_scaling_yarn_beta_slow(scaling.beta_slow)
        if scaling.attention is not None:
            made.add_rope_scaling_yarn_attn_factor(scaling.attention / yarn_factor(scaling.factor))


def tensors(model: Transformer) -> dict[str, Tensor]:
    """The weights under GGUF's names and in its orders."""
    config = model.config
    permuted = family(config) in PERMUTED
    state = {}
    for name, tensor in model.state_dict().items():
        stem, _, kind = name.rpartition(".")
        inside = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", stem)
        if inside is None:
            state[f"{_NAMES[stem]}.{kind}"] = tensor.cpu()
            continue
        short = _NAMES[inside[2]]
        if permuted and short in ("attn_q", "attn_k"):
            tensor = permute(tensor, config.heads if short == "attn_q" else config.kv_heads)
        state[f"blk.{inside[1]}.{short}.{kind}"] = tensor.cpu()
    if config.rope_scaling is not None and config.rope_scaling.kind == "llama3":
        plain = ModelConfig(**{**vars(config), "rope_scaling": None})
        state["rope_freqs.weight"] = frequencies(plain)[0] / frequencies(config)[0]
    return state


def add_weights(
    made: Any, model: Transformer, kind: GgufType, importance: Mapping[str, Tensor] | None = None
) -> Written:
    """The tensors in the formats of `kind`. `importance`: of each layer's inputs, under the names of `transformer`."""
    from gguf import GGMLQuantizationType

    config, mix, parameters, size = model.config, Counter[str](), 0, 0
    weighed = {_gguf_name(name): values for name, values in (importance or {}).items()}
    for name, tensor in tensors(model).items():
        form = ggml.format_of(kind, name, tuple(tensor.shape), config.layers, tied=config.tie_embeddings)
        data = ggml.encoded(tensor, form, weighed.get(name))
        made.add_tensor(name, data, raw_dtype=GGMLQuantizationType[form])
        mix[form] += 1
        parameters += tensor.numel()
        size += data.nbytes
    made.add_file_type(ggml.MIXES[kind].file_type)
    made.add_quantization_version(2)
    return Written(dict(mix.most_common()), parameters, size)


def _gguf_name(layer: str) -> str:
    """`model.layers.3.mlp.up_proj` -> `blk.3.ffn_up.weight`."""
    inside = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", layer)
    return f"blk.{inside[1]}.{_NAMES[inside[2]]}.weight" if inside else f"{_NAMES[layer]}.weight"
