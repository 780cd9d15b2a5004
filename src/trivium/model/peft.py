"""Adapters that the peft library saved, put into the weights of their base: low-rank ones (Hu et al. 2021), scaled by rank or its
root (rsLoRA), with magnitudes (DoRA), on layers, embeddings and head; and the modules that were trained whole beside them.

What counts is the names of the tensors, which say where each belongs however the targets were written: a list, a pattern,
`all-linear`.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trivium.errors import ArtifactError
from trivium.model.config import ModelConfig
from trivium.model.hf import read_file
from trivium.model.lora import WEIGHTS, whole
from trivium.model.source import ADAPTER

State = dict[str, Tensor]
_PART = re.compile(
    r"(.+)\.(lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)(?:\.default)?(\.weight|\.bias)?"
)
_EMBEDDINGS = ("model.embed_tokens.weight", "transformer.wte.weight")
HEAD = "lm_head.weight"


def merged(folder: Path, config: ModelConfig, state: State) -> tuple[ModelConfig, State]:
    """The base's config and tensors, under the names of its file, with the adapter of `folder` in them (float32).

    A head that was the embeddings becomes one of its own where only one of the two is adapted. ArtifactError for a kind of
    adapter that is not known, and for tensors that belong to nothing in the base.
    """
    raw = _read(folder)
    parts, full = _sorted(read_file(folder / WEIGHTS))
    embeddings = next((name for name in _EMBEDDINGS if name in state), _EMBEDDINGS[0])
    touched = {HEAD, embeddings} & {*full, *(f"{stem}.weight" for stem in parts)}
    if config.tie_embeddings and touched and not raw.get("ensure_weight_tying"):
        state[HEAD] = state[embeddings].clone()
        config = replace(config, tie_embeddings=False)
    unknown = [name for name in full if name not in state]
    unknown += [stem for stem in parts if f"{stem}.weight" not in state]
    if unknown:
        raise ArtifactError(
            f"{len(unknown)} of the adapter's modules are not in the base: {', '.join(sorted(unknown)[:5])}",
            where=str(folder),
            fix="give the checkpoint that the adapter was trained on as `base`",
        )
    for name, tensor in full.items():
        state[name] = tensor.float()
    for stem, found in parts.items():
        try:
            _adapt(stem, found, raw, state)
        except (KeyError, RuntimeError) as error:
            said = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            raise ArtifactError(f"the adapter of {stem} does not fit: {said}", where=str(folder)) from None
    return replace(config, vocab_size=len(state[embeddings])), state


def _read(folder: Path) -> dict[str, Any]:
    path = folder / ADAPTER
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        kind, rank = raw.get("peft_type"), raw.get("r")
    except (OSError, ValueError, AttributeError) as error:
        raise ArtifactError(f"{ADAPTER} cannot be read: {error}", where=str(folder)) from None
    if kind != "LORA" or not isinstance(rank, int):
        raise ArtifactError(
            f"the adapter is of the kind {kind}, and only LORA can be read",
            where=str(path),
            fix="merge it with peft (`merge_and_unload`) and import what that saves",
        )
    return raw


def _sorted(tensors: Mapping[str, Tensor]) -> tuple[dict[str, State], State]:
    """Module -> its adapter's tensors, and the tensors that stand for the base's own."""
    parts: dict[str, State] = defaultdict(dict)
    full: State = {}
    for name, tensor in tensors.items():
        name = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
        name = re.sub(r"\.modules_to_save(\.default)?\.", ".", name)
        if part := _PART.fullmatch(name):
            kind = part[2].replace("_embedding", "") + (part[3] if part[3] == ".bias" else "")
            parts[part[1]][kind] = tensor.float()
        else:
            full[name] = tensor
    return dict(parts), full


def _pattern(patterns: Mapping[str, Any] | None, stem: str, otherwise: Any) -> Any:
    """What `alpha_pattern` says of a module."""
    named = (key for key in patterns or {} if re.fullmatch(rf"(.*\.)?({key})", stem))
    key = next(named, None)
    return otherwise if key is None or patterns is None else patterns[key]


def _adapt(stem: str, found: State, raw: Mapping[str, Any], state: State) -> None:
    first, second, name = found["lora_A"], found["lora_B"], f"{stem}.weight"
    alpha, rank = _pattern(raw.get("alpha_pattern"), stem, raw["lora_alpha"]), len(first)
    factor = alpha / (math.sqrt(rank) if raw.get("use_rslora") else rank)
    weight, shape = state[name].float(), (len(second), first.shape[1])
    turned = weight.shape != shape or (bool(raw.get("fan_in_fan_out")) and stem != "lm_head")
    adapted = whole(weight.T if turned else weight, first, second, factor, found.get("lora_magnitude_vector"))
    state[name] = (adapted.T if turned else adapted).contiguous()
    if (bias := found.get("lora_B.bias")) is not None:
        own = state.get(f"{stem}.bias", torch.zeros(shape[0]))
        state[f"{stem}.bias"] = own.float() + factor * bias
