"""Checkpoints in the Hugging Face layout: `config.json`, `generation_config.json`, `model.safetensors`. Nothing is unpickled."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from trivium.errors import ArtifactError
from trivium.files import atomic_path, verify, write_json
from trivium.model.config import ModelConfig
from trivium.model.int8 import Int8Linear, quantize, with_int8_layers
from trivium.model.transformer import Transformer

WEIGHTS = "model.safetensors"


def read_config(folder: Path) -> tuple[ModelConfig, bool]:
    """(the model's shape, whether its weights are int8). ArtifactError if the folder holds no checkpoint."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        return ModelConfig.from_huggingface(config), "quantization_config" in config
    except FileNotFoundError:
        fix = "give the folder of a checkpoint, such as runs/quickstart/aligned"
        raise ArtifactError(f"{folder} is no checkpoint: it has no config.json", fix=fix) from None
    except (KeyError, ValueError, TypeError) as error:
        raise ArtifactError(f"config.json cannot be read: {error}", where=str(path)) from None


def load(folder: Path, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Transformer:
    """The model in `folder`, with float weights as `dtype`.

    Where the folder has a manifest (artifact.json), the SHA-256 of every file is checked first. ArtifactError for a
    damaged or missing file, and for weights that do not fit the config (the first five differing names are given).
    """
    folder = Path(folder)
    config, int8 = read_config(folder)
    manifest = folder / "artifact.json"
    if manifest.exists():
        verify(folder, json.loads(manifest.read_text(encoding="utf-8"))["files"])
    path = folder / WEIGHTS
    try:
        state = load_file(path)
    except FileNotFoundError:
        raise ArtifactError(f"the checkpoint has no {WEIGHTS}", where=str(folder)) from None
    except SafetensorError as error:
        fix = "the file is damaged: run the recipe again to make it anew"
        raise ArtifactError(f"{WEIGHTS} cannot be read: {error}", where=str(path), fix=fix) from None
    with torch.device("meta"):
        model = Transformer(config)
        if int8:
            with_int8_layers(model)
    _check_fit({name: tuple(t.shape) for name, t in model.state_dict().items()}, state, path)
    packed = (torch.int8, torch.bfloat16) if int8 else ()  # int8 layers and their scales stay as stored
    dtype = torch.bfloat16 if int8 else dtype
    # cloned: in the file a tensor starts at any byte, and the int8 kernel needs it aligned
    state = {n: tensor.clone() if tensor.dtype in packed else tensor.to(dtype) for n, tensor in state.items()}
    model.load_state_dict(state, assign=True)
    return model.to(device)


def _check_fit(expected: dict[str, tuple[int, ...]], state: dict[str, Tensor], path: Path) -> None:
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    wrong = [name for name in sorted(expected.keys() | found.keys()) if expected.get(name) != found.get(name)]
    if wrong:
        shown = ", ".join(f"{n} (config {expected.get(n)}, file {found.get(n)})" for n in wrong[:5])
        raise ArtifactError(
            f"the weights do not fit config.json: {len(wrong)} names or shapes differ: {shown}",
            where=str(path),
            fix="use the config.json that was saved with these weights",
        )


def save(model: Transformer, folder: Path, *, eos: int, pad: int) -> None:
    """Writes the three files: weights as they are, or in the compressed-tensors layout where the layers are int8."""
    folder.mkdir(parents=True, exist_ok=True)
    config = model.config.to_huggingface(bos=None, eos=eos, pad=pad)
    if any(isinstance(module, Int8Linear) for module in model.modules()):
        config |= {"quantization_config": QUANTIZATION, "dtype": "bfloat16"}
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", {"eos_token_id": eos, "pad_token_id": pad})
    with atomic_path(folder / WEIGHTS) as temporary:
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        save_file(state, temporary, metadata={"format": "pt"})


def quantized(model: Transformer) -> Transformer:
    """A copy of `model` with int8 layers; everything else in bf16."""
    with torch.device("meta"):
        small = with_int8_layers(Transformer(model.config))
    linear = {name for name, module in small.named_modules() if isinstance(module, Int8Linear)}
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        layer = name.removesuffix(".weight")
        if layer in linear:
            state[name], state[f"{layer}.weight_scale"] = quantize(tensor)
        else:
            state[name] = tensor.to(torch.bfloat16)
    small.load_state_dict(state, assign=True)
    assert isinstance(small, Transformer)
    return small


QUANTIZATION = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "format": "int-quantized",
            "weights": {
                "num_bits": 8,
                "type": "int",
                "symmetric": True,
                "strategy": "channel",
                "dynamic": False,
            },
        }
    },
}
