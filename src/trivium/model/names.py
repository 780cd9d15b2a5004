"""The names and layouts of tensors in each family's files, and those of the one transformer.

Most families have Llama's names. Others fuse matrices that stand alone here (Phi-3), keep all experts in one tensor (gpt-oss),
turn pairs of numbers that lie side by side (DeepSeek-V3), store a norm's weight less 1 (Gemma), or have names of their own.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import Tensor

from trivium.model.config import ModelConfig

State = dict[str, Tensor]
Rename = tuple[tuple[str, str], ...]

MIXTRAL: Rename = (
    (".block_sparse_moe.gate.", ".mlp.gate."),
    (".block_sparse_moe.experts.", ".mlp.experts."),
    (".w1.", ".gate_proj."),
    (".w3.", ".up_proj."),
    (".w2.", ".down_proj."),
)
GPT2: Rename = (
    ("transformer.wte.", "model.embed_tokens."),
    ("transformer.wpe.", "model.embed_positions."),
    ("transformer.h.", "model.layers."),
    ("transformer.ln_f.", "model.norm."),
    (".ln_1.", ".input_layernorm."),
    (".ln_2.", ".post_attention_layernorm."),
    (".attn.c_attn.", ".self_attn.qkv_proj."),
    (".attn.c_proj.", ".self_attn.o_proj."),
    (".mlp.c_fc.", ".mlp.up_proj."),
    (".mlp.c_proj.", ".mlp.down_proj."),
)
GPT_OSS: Rename = ((".mlp.router.", ".mlp.gate."),)
_NORM = re.compile(r"norm\.weight$")
_FUSED = (
    (".self_attn.qkv_proj.", (".self_attn.q_proj.", ".self_attn.k_proj.", ".self_attn.v_proj.")),
    (".mlp.gate_up_proj.", (".mlp.gate_proj.", ".mlp.up_proj.")),
)


def incoming(family: str, config: ModelConfig, state: State) -> State:
    """A file's tensors under the names of `transformer`. What is not known keeps its name; `state` is emptied on the way, so that
    no tensor is held twice."""
    state = _without_extra_layers(config, state)
    reader = _READERS.get(family)
    return state if reader is None else reader(config, state)


def outgoing(family: str, config: ModelConfig, state: State) -> State:
    """The other way round: what the family's file holds."""
    writer = _WRITERS.get(family)
    return dict(state) if writer is None else writer(config, dict(state))


def _without_extra_layers(config: ModelConfig, state: State) -> State:
    """Without the layers behind the last that predict further tokens (GLM-4, DeepSeek-V3); transformers leaves them, too."""
    if config.experts is None:
        return state

    def extra(name: str) -> bool:
        number = re.match(r"model\.layers\.(\d+)\.", name)
        return number is not None and int(number[1]) >= config.layers

    return {name: tensor for name, tensor in state.items() if not extra(name)}


def _renamed(state: State, names: Rename, *, back: bool = False) -> State:
    renamed: State = {}
    for name in list(state):
        new = name
        for theirs, ours in reversed(names) if back else names:
            new = new.replace(ours, theirs) if back else new.replace(theirs, ours)
        renamed[new] = state.pop(name)
    return renamed


def _split(config: ModelConfig, state: State) -> State:
    """Fused matrices cut into rows: queries, keys and values; gate and up. Biases and scales of int8 go the same way."""
    sizes = {
        3: [config.heads * config.head_dim, *[config.kv_heads * config.head_dim] * 2],
        2: [config.hidden] * 2,
    }
    for name in list(state):
        for fused, parts in _FUSED:
            if fused in name and state[name].shape[0] == sum(sizes[len(parts)]):
                pieces = torch.split(state.pop(name), sizes[len(parts)])
                state |= {name.replace(fused, p): piece for p, piece in zip(parts, pieces, strict=True)}
    return state


def _fused(state: State, layouts: tuple[tuple[str, tuple[str, ...]], ...] = _FUSED) -> State:
    for fused, parts in layouts:
        for name in [name for name in state if parts[0] in name]:
            state[name.replace(parts[0], fused)] = torch.cat(
                [state.pop(name.replace(parts[0], p)) for p in parts]
            )
    return state


def _shifted(state: State, by: float) -> State:
    """Gemma stores what a norm's weight is more than 1."""
    for name in state:
        if _NORM.search(name):
            state[name] = state[name].float() + by
    return state


def _read_gpt2(config: ModelConfig, state: State) -> State:
    named = any(name.startswith("transformer.") for name in state)  # older files leave the prefix out
    prefix = "" if named else "transformer."
    state = _renamed({prefix + name: state.pop(name) for name in list(state)}, GPT2)
    state = {n: t for n, t in state.items() if not n.endswith((".attn.bias", ".attn.masked_bias"))}  # masks
    for name, tensor in state.items():
        if name.startswith("model.layers.") and tensor.dim() == 2:
            state[name] = tensor.T.contiguous()
    return _split(config, state)


def _write_gpt2(config: ModelConfig, state: State) -> State:
    state = _fused(state, _FUSED[:1])
    for name, tensor in state.items():
        if name.startswith("model.layers.") and tensor.dim() == 2:
            state[name] = tensor.T
    return _renamed(state, GPT2, back=True)


def _interleaved(config: ModelConfig, state: State, *, back: bool = False) -> State:
    """The rows of turned numbers between DeepSeek's order, pairs side by side, and halves."""
    latent = config.latent
    assert latent is not None
    for name, tensor in state.items():
        if re.search(r"\.(q_b_proj|q_proj)\.", name):
            heads = tensor.reshape(config.heads, -1, *tensor.shape[1:])
        elif ".kv_a_proj_with_mqa." in name:
            heads = tensor[None]
        else:
            continue
        kept, turned = heads[:, : -latent.turned], heads[:, -latent.turned :]
        pairs = (2, -1) if back else (-1, 2)
        turned = turned.reshape(len(turned), *pairs, *turned.shape[2:]).transpose(1, 2).flatten(1, 2)
        state[name] = torch.cat((kept, turned), dim=1).flatten(0, 1)
    return state


def _read_gpt_oss(config: ModelConfig, state: State) -> State:
    """Experts stacked, inputs first, gate and up in turns."""
    state = _renamed(state, GPT_OSS)
    for name in [name for name in state if ".mlp.experts." in name]:
        layer, kind = name.split(".experts.")
        stacked = state.pop(name)
        suffix = "bias" if kind.endswith("_bias") else "weight"
        for number, tensor in enumerate(stacked.unbind()):
            stem = f"{layer}.experts.{number}"
            rows = tensor.T if suffix == "weight" else tensor
            if kind.startswith("gate_up_proj"):
                state[f"{stem}.gate_proj.{suffix}"] = rows[::2].contiguous()
                state[f"{stem}.up_proj.{suffix}"] = rows[1::2].contiguous()
            else:
                state[f"{stem}.down_proj.{suffix}"] = rows.contiguous()
    return state


def _write_gpt_oss(config: ModelConfig, state: State) -> State:
    assert config.experts is not None
    numbers = range(config.experts.count)
    for name in [name for name in state if ".experts.0.gate_proj." in name]:
        layer, suffix = name.split(".experts.")[0], name.rpartition(".")[2]
        end = "" if suffix == "weight" else "_bias"

        def taken(kind: str, number: int, layer: str = layer, suffix: str = suffix) -> Tensor:
            return state.pop(f"{layer}.experts.{number}.{kind}.{suffix}")

        both = [
            torch.stack((taken("gate_proj", n), taken("up_proj", n)), dim=1).flatten(0, 1) for n in numbers
        ]
        down = [taken("down_proj", n) for n in numbers]
        for kind, tensors in (("gate_up_proj", both), ("down_proj", down)):
            state[f"{layer}.experts.{kind}{end}"] = torch.stack([t.T if t.dim() == 2 else t for t in tensors])
    return _renamed(state, GPT_OSS, back=True)


_READERS: dict[str, Callable[[ModelConfig, State], State]] = {
    "phi3": _split,
    "gemma2": lambda config, state: _shifted(state, 1.0),
    "gemma3_text": lambda config, state: _shifted(state, 1.0),
    "mixtral": lambda config, state: _renamed(state, MIXTRAL),
    "gpt2": _read_gpt2,
    "gpt_oss": _read_gpt_oss,
    "deepseek_v3": _interleaved,
}
_WRITERS: dict[str, Callable[[ModelConfig, State], State]] = {
    "phi3": lambda config, state: _fused(state),
    "gemma2": lambda config, state: _shifted(state, -1.0),
    "gemma3_text": lambda config, state: _shifted(state, -1.0),
    "mixtral": lambda config, state: _renamed(state, MIXTRAL, back=True),
    "gpt2": _write_gpt2,
    "gpt_oss": _write_gpt_oss,
    "deepseek_v3": lambda config, state: _interleaved(config, state, back=True),
}
