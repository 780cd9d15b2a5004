"""Low-rank adapters (Hu et al. 2021): W x + factor B A x, with W frozen and only A and B trained.

The factor is alpha / rank, or alpha / sqrt(rank) with rsLoRA (Kalajdzievski 2023). With DoRA (Liu et al. 2024) each output has a
trained magnitude m, too: m (W + factor B A) x / ||W + factor B A||, the norm taken over the output's row.

With `quantize: int8` the frozen W is kept as int8 with one scale per output channel, as QLoRA (Dettmers et al. 2023) does with
four bits. Files are those of the peft library.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from trivium.errors import ArtifactError
from trivium.files import atomic_path, write_json
from trivium.model.config import ModelConfig
from trivium.model.dropout import KeyedDropout
from trivium.model.int8 import Int8Linear, quantize
from trivium.model.transformer import Transformer
from trivium.recipe.network import Adapter
from trivium.types import Batch, Output

WEIGHTS = "adapter_model.safetensors"
ENDS = frozenset({"embed_tokens", "lm_head"})
"""Layers outside the blocks: what is read and what is said."""
TRAINED = (".lora_A", ".lora_B", ".lora_embedding_A", ".lora_embedding_B", ".lora_magnitude_vector")
"""How the names of an adapter's tensors end, as in peft."""


class _Low(nn.Module):
    """What both kinds of adapted layers share: A (R, K), B (N, R), N outputs, K inputs, R the rank; with DoRA the magnitude (N,)
    of each output, too."""

    lora_A: nn.Parameter
    lora_B: nn.Parameter
    lora_magnitude_vector: nn.Parameter | None

    def add_adapter(self, inputs: int, outputs: int, adapter: Adapter, generator: torch.Generator) -> None:
        """B is zero, so that the model starts as it was; A is uniform within 1 / sqrt(K), as nn.Linear starts."""
        bound = 1 / math.sqrt(inputs)
        first = torch.empty(adapter.rank, inputs).uniform_(-bound, bound, generator=generator)
        self.lora_A = nn.Parameter(first)
        self.lora_B = nn.Parameter(torch.zeros(outputs, adapter.rank))
        self.dropout, self.factor = adapter.dropout, adapter.factor
        self.lora_magnitude_vector = _magnitude(self.dense()) if adapter.dora else None

    keyed: KeyedDropout | None = None
    number = 0
    off = False  # as if there were no adapter

    def dense(self) -> Tensor:
        """The frozen weight (N, K)."""
        raise NotImplementedError

    def adapted(self, x: Tensor, plain: Tensor) -> Tensor:
        """The layer's output, (..., N), from its input x (..., K) and what it says without an adapter."""
        if self.off:
            return plain
        kept = self.dropped(x)
        low = F.linear(F.linear(kept, self.lora_A), self.lora_B) * self.factor
        if self.lora_magnitude_vector is None:
            return plain + low
        dense = self.dense()
        stretch = _stretch(dense, self.lora_A, self.lora_B, self.factor, self.lora_magnitude_vector)
        bias: Any = self.bias
        unbiased = plain if bias is None else plain - bias
        if kept is not x:
            unbiased = F.linear(kept, dense.to(kept.dtype))
        return plain + (stretch - 1) * unbiased + stretch * low

    def dropped(self, x: Tensor) -> Tensor:
        if self.keyed is not None and self.keyed.keys is not None:
            return self.keyed(x, self.dropout, self.number)
        if self.dropout and self.training and torch.is_grad_enabled():  # none while validating
            return F.dropout(x, self.dropout)
        return x


class LoraLinear(_Low, nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return self.adapted(x, F.linear(x, self.weight, self.bias))

    def dense(self) -> Tensor:
        return self.weight

    @property
    def effective(self) -> Tensor:
        """The weight (N, K) with its adapter, for a head whose product is taken elsewhere (`Transformer.output_weight`)."""
        if self.off:
            return self.weight
        return whole(self.weight, self.lora_A, self.lora_B, self.factor, self.lora_magnitude_vector)


class LoraInt8(_Low, Int8Linear):
    def forward(self, x: Tensor) -> Tensor:
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        return self.adapted(x, Int8Linear.forward(self, x))

    def dense(self) -> Tensor:
        return self.dequantised()


class LoraEmbedding(nn.Embedding):
    """Rows of W (V, D) plus those of (B A)', A (R, V) and B (D, R). A is zero at the start and B normal, as peft has it."""

    off = False

    def add_adapter(self, adapter: Adapter, generator: torch.Generator) -> None:
        self.lora_embedding_A = nn.Parameter(torch.zeros(adapter.rank, self.num_embeddings))
        fresh = torch.empty(self.embedding_dim, adapter.rank).normal_(generator=generator)
        self.lora_embedding_B = nn.Parameter(fresh)
        self.factor = adapter.factor
        self.lora_magnitude_vector = _magnitude(self.weight.T) if adapter.dora else None

    def forward(self, tokens: Tensor) -> Tensor:
        plain = F.embedding(tokens, self.weight)
        if self.off:
            return plain
        first, second, magnitude = self.lora_embedding_A, self.lora_embedding_B, self.lora_magnitude_vector
        low = F.embedding(tokens, first.T) @ second.T * self.factor
        if magnitude is None:
            return plain + low
        return (plain + low) * _stretch(self.weight.T, first, second, self.factor, magnitude)


def _magnitude(weight: Tensor) -> nn.Parameter:
    """Norm of each row of (N, K)."""
    return nn.Parameter(torch.linalg.vector_norm(weight.detach().float(), dim=1))


def _stretch(weight: Tensor, first: Tensor, second: Tensor, factor: float, magnitude: Tensor) -> Tensor:
    """(N,): what DoRA multiplies each row of W + factor B A by, its magnitude over the norm that it has.

    The norm is a constant for the gradient (Liu et al. 2024, section 4.3).
    """
    with torch.no_grad():
        norm = torch.linalg.vector_norm(weight.float() + factor * (second @ first).float(), dim=1)
        norm = torch.where(
            norm > 0, norm, torch.ones_like(norm)
        )  # a row of zeros, such as padding's, stays one
    return magnitude / norm


def whole(weight: Tensor, first: Tensor, second: Tensor, factor: float, magnitude: Tensor | None) -> Tensor:
    """W (N, K) with its adapter, in one matrix."""
    total = weight + factor * (second @ first)
    if magnitude is None:
        return total
    return _stretch(weight, first, second, factor, magnitude)[:, None] * total


class Base:
    """A model with adapters as it was without them, to be called in its place: a reference that needs no weights of its own."""

    def __init__(self, model: Transformer) -> None:
        self.model = model

    def parameters(self) -> Iterator[nn.Parameter]:
        return self.model.parameters()

    def __call__(self, batch: Batch, want: Set[str]) -> Output:
        adapted = [module for module in self.model.modules() if isinstance(module, _Low | LoraEmbedding)]
        for module in adapted:
            module.off = True
        try:
            out: Output = self.model(batch, want)
            return out
        finally:
            for module in adapted:
                module.off = False


def attach(model: Transformer, adapter: Adapter, generator: torch.Generator) -> None:
    """Puts adapters beside the layers named in `targets`, in place; everything else is frozen.

    Tied embeddings are two matrices from then on where one of them gets an adapter: it moves what is read or what is said.
    In a model with experts only attention gets them: transformers keeps experts in one tensor, and peft has its own ways there.
    ArtifactError if no layer has one of the names.
    """
    model.requires_grad_(False)
    if model.config.tie_embeddings and ENDS & set(adapter.targets):
        _untie(model)
    blocks = [m for name, m in model.named_modules() if model.config.experts is None or ".mlp" not in name]
    model.dropout, count = KeyedDropout() if adapter.dropout else None, 0
    for parent in blocks:
        for name, child in list(parent.named_children()):
            if name not in adapter.targets:
                continue
            if isinstance(child, nn.Embedding):
                setattr(parent, name, _adapted_embedding(child, adapter, generator))
                count += 1
            elif isinstance(child, nn.Linear):
                layer = _adapted(child, adapter, generator, whole=name in ENDS)
                layer.keyed, layer.number = (
                    model.dropout,
                    count,
                )  # which of the layers it is, and the model's one holder
                setattr(parent, name, layer)
                count += 1
    if not count:
        raise ArtifactError(
            f"the model has no layer for adapters among {', '.join(adapter.targets)}",
            fix="in a model with experts, name attention's: q_proj, k_proj, v_proj, o_proj",
        )


def _untie(model: Transformer) -> None:
    model.config = replace(model.config, tie_embeddings=False)
    weight = model.model.embed_tokens.weight
    with torch.device("meta"):
        model.lm_head = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    model.lm_head.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)


def _adapted_embedding(layer: nn.Embedding, adapter: Adapter, generator: torch.Generator) -> LoraEmbedding:
    with torch.device("meta"):
        made = LoraEmbedding(layer.num_embeddings, layer.embedding_dim)
    made.weight = layer.weight
    made.add_adapter(adapter, generator)
    return made


def _adapted(layer: nn.Linear, adapter: Adapter, generator: torch.Generator, whole: bool) -> _Low:
    made: LoraLinear | LoraInt8
    biased = layer.bias is not None
    if adapter.quantize == "none" or whole:
        with torch.device("meta"):
            made = LoraLinear(layer.in_features, layer.out_features, bias=biased)
        made.weight, made.bias = layer.weight, layer.bias
    else:
        made = LoraInt8(layer.in_features, layer.out_features, biased)
        made.weight, made.weight_scale = quantize(layer.weight.detach())
        if biased:
            made.bias = layer.bias.detach()
    made.add_adapter(layer.in_features, layer.out_features, adapter, generator)
    return made


def merged(config: ModelConfig, state: Mapping[str, Tensor], adapter: Adapter) -> Transformer:
    """A plain model with each adapter in its layer's weight, float32; `state` of an adapted one, whole."""
    plain: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.endswith((*TRAINED, ".weight_scale")):
            continue
        stem, kind = name.rpartition(".")[::2]
        if kind == "weight" and tensor.dtype == torch.int8:
            tensor = tensor.float() * state[f"{stem}.weight_scale"].float()
        if kind == "weight" and f"{stem}.lora_A" in state:
            tensor = _of_state(tensor, state, f"{stem}.lora_", adapter.factor)
        if kind == "weight" and f"{stem}.lora_embedding_A" in state:
            tensor = _of_state(tensor.T, state, f"{stem}.lora_embedding_", adapter.factor).T.contiguous()
        plain[name] = tensor.detach().float()
    with torch.device("meta"):
        model = Transformer(config)
    model.load_state_dict(plain, assign=True)
    return model


def _of_state(weight: Tensor, state: Mapping[str, Tensor], prefix: str, factor: float) -> Tensor:
    """`_whole` of the tensors that `state` has for a weight (N, K)."""
    magnitude = state.get(f"{prefix.removesuffix('embedding_')}magnitude_vector")
    return whole(weight.float(), state[f"{prefix}A"].float(), state[f"{prefix}B"].float(), factor, magnitude)


def save(state: Mapping[str, Tensor], adapter: Adapter, folder: Path) -> None:
    """Writes `adapter_model.safetensors` and `adapter_config.json`, which `peft.PeftModel.from_pretrained` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"base_model.model.{name}{'.weight' if name.endswith(('.lora_A', '.lora_B')) else ''}": tensor.detach()
        .cpu()
        .contiguous()
        for name, tensor in state.items()
        if name.endswith(TRAINED)
    }
    targets = {name.split(".")[-2] for name in state if name.endswith(TRAINED)}
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "r": adapter.rank,
        "lora_alpha": adapter.alpha or 2 * adapter.rank,
        "lora_dropout": adapter.dropout,
        "target_modules": sorted(targets),
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": adapter.rslora,
        "use_dora": adapter.dora,
        "inference_mode": True,
    }
    with atomic_path(folder / WEIGHTS) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
    write_json(folder / "adapter_config.json", config)
