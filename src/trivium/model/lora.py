"""Low-rank adapters (Hu et al. 2021): W x + (alpha / rank) B A x, with W frozen and only A and B trained.

With `quantize: int8` the frozen W is kept as int8 with one scale per output channel, as QLoRA (Dettmers et al. 2023) does with
four bits. Files are those of the peft library.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Set
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


class _Low(nn.Module):
    """What both kinds of adapted layers share: A (R, K), B (N, R), N outputs, K inputs, R the rank."""

    lora_A: nn.Parameter
    lora_B: nn.Parameter

    def add_adapter(self, inputs: int, outputs: int, adapter: Adapter, generator: torch.Generator) -> None:
        """B is zero, so that the model starts as it was; A is uniform within 1 / sqrt(K), as nn.Linear starts."""
        bound = 1 / math.sqrt(inputs)
        first = torch.empty(adapter.rank, inputs).uniform_(-bound, bound, generator=generator)
        self.lora_A = nn.Parameter(first)
        self.lora_B = nn.Parameter(torch.zeros(outputs, adapter.rank))
        self.dropout, self.factor = adapter.dropout, adapter.factor

    keyed: KeyedDropout | None = None
    number = 0
    off = False  # as if there were no adapter

    def low(self, x: Tensor) -> Tensor:
        if self.off:
            return x.new_zeros(())
        if self.keyed is not None and self.keyed.keys is not None:
            x = self.keyed(x, self.dropout, self.number)
        elif self.dropout and self.training and torch.is_grad_enabled():  # none while validating
            x = F.dropout(x, self.dropout)
        return F.linear(F.linear(x, self.lora_A), self.lora_B) * self.factor


class LoraLinear(_Low, nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias) + self.low(x)


class LoraInt8(_Low, Int8Linear):
    def forward(self, x: Tensor) -> Tensor:
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        return Int8Linear.forward(self, x) + self.low(x)


class Base:
    """A model with adapters as it was without them, to be called in its place: a reference that needs no weights of its own."""

    def __init__(self, model: Transformer) -> None:
        self.model = model

    def parameters(self) -> Iterator[nn.Parameter]:
        return self.model.parameters()

    def __call__(self, batch: Batch, want: Set[str]) -> Output:
        adapted = [module for module in self.model.modules() if isinstance(module, _Low)]
        for module in adapted:
            module.off = True
        try:
            out: Output = self.model(batch, want)
            return out
        finally:
            for module in adapted:
                module.off = False


def attach(model: Transformer, adapter: Adapter, generator: torch.Generator) -> None:
    """Puts adapters beside the linear layers named in `targets`, in place; everything else is frozen.

    In a model with experts only attention gets them: transformers keeps experts in one tensor, and peft has its own ways there.
    ArtifactError if no layer has one of the names.
    """
    model.requires_grad_(False)
    blocks = [m for name, m in model.named_modules() if model.config.experts is None or ".mlp" not in name]
    model.dropout, count = KeyedDropout() if adapter.dropout else None, 0
    for parent in blocks:
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear) and name in adapter.targets:
                layer = _adapted(child, adapter, generator)
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


def _adapted(layer: nn.Linear, adapter: Adapter, generator: torch.Generator) -> _Low:
    made: LoraLinear | LoraInt8
    biased = layer.bias is not None
    if adapter.quantize == "none":
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
    """A plain model with W + (alpha / rank) B A in place of each adapted layer, float32; `state` of an adapted one, whole."""
    plain: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.endswith((".lora_A", ".lora_B", ".weight_scale")):
            continue
        stem, kind = name.rpartition(".")[::2]
        if kind == "weight" and tensor.dtype == torch.int8:
            tensor = tensor.float() * state[f"{stem}.weight_scale"].float()
        if kind == "weight" and f"{stem}.lora_A" in state:
            low = state[f"{stem}.lora_B"].float() @ state[f"{stem}.lora_A"].float()
            tensor = tensor.float() + adapter.factor * low
        plain[name] = tensor.detach().float()
    with torch.device("meta"):
        model = Transformer(config)
    model.load_state_dict(plain, assign=True)
    return model


def save(state: Mapping[str, Tensor], adapter: Adapter, folder: Path) -> None:
    """Writes `adapter_model.safetensors` and `adapter_config.json`, which `peft.PeftModel.from_pretrained` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"base_model.model.{name}.weight": tensor.detach().cpu().contiguous()
        for name, tensor in state.items()
        if name.endswith((".lora_A", ".lora_B"))
    }
    targets = {name.split(".")[-2] for name in state if name.endswith(".lora_A")}
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
        "use_rslora": False,
        "inference_mode": True,
    }
    with atomic_path(folder / WEIGHTS) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
    write_json(folder / "adapter_config.json", config)
