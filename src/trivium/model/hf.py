"""Checkpoints in the Hugging Face layout: `config.json`, `generation_config.json`, `model.safetensors` (or shards of it with
an index). Nothing is unpickled."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from trivium.cores import take_ours
from trivium.errors import ArtifactError
from trivium.files import atomic_path, verify, write_json
from trivium.model import generation as generation_config
from trivium.model import quantised
from trivium.model.config import ModelConfig
from trivium.model.families import family, from_huggingface, to_huggingface
from trivium.model.int8 import Int8Linear, quantize, round_inputs, rounds_inputs, with_int8_layers
from trivium.model.names import incoming, outgoing
from trivium.model.transformer import Transformer
from trivium.recipe.network import Generation

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
Adapted = Callable[[ModelConfig, dict[str, Tensor]], tuple[ModelConfig, dict[str, Tensor]]]
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


class Header(NamedTuple):
    """What a `config.json` says."""

    config: ModelConfig
    family: str
    int8: bool
    scheme: dict[str, Any] | None = None  # how the weights are quantised
    rounds_inputs: bool = False  # int8: each token's inputs, too


def read_config(folder: Path) -> Header:
    """The header of the checkpoint in `folder`. ArtifactError if it holds none, or one that cannot be read."""
    path = folder / "config.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        int8, inputs = _is_int8(raw, path), _rounds_inputs(raw, path)
        return Header(from_huggingface(raw), raw["model_type"], int8, raw.get("quantization_config"), inputs)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        fix = "give the folder of a checkpoint, such as runs/quickstart/aligned, or a .gguf file"
        raise ArtifactError(f"{folder} is no checkpoint: it has no config.json", fix=fix) from None
    except ArtifactError as error:  # what reads the fields does not know the file
        error.where = error.where or str(path)
        raise
    except (KeyError, ValueError, TypeError, AttributeError, ZeroDivisionError, OverflowError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise ArtifactError(f"config.json cannot be read: {reason}", where=str(path)) from None


def _is_int8(raw: dict[str, Any], path: Path) -> bool:
    """Whether the weights are int8 with one scale a row, and nothing else is. ArtifactError for a scheme that cannot be read."""
    scheme = raw.get("quantization_config")
    if not scheme:
        return False
    if scheme.get("quant_method") not in quantised.READERS:
        quantised.floats(scheme, {}, path)
    if scheme.get("quant_method") != "compressed-tensors":
        return False
    groups = list(scheme["config_groups"].values())
    wanted = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
    return scheme.get("format") == "int-quantized" and all(
        group["weights"].get(key) == value for group in groups for key, value in wanted.items()
    )


BY_TOKEN = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}
"""How a file says that inputs are rounded to int8 as they come (W8A8)."""


def _rounds_inputs(raw: dict[str, Any], path: Path) -> bool:
    """Whether all int8 layers round each token's inputs to int8. ArtifactError where whole numbers are rounded in another way."""
    scheme = raw.get("quantization_config") or {}
    if scheme.get("quant_method") != "compressed-tensors":
        return False
    groups = [group for group in scheme["config_groups"].values() if group["weights"].get("type") == "int"]
    inputs = [group.get("input_activations") for group in groups]
    known = all(said and all(said.get(key) == value for key, value in BY_TOKEN.items()) for said in inputs)
    if (any(inputs) and not (known and _is_int8(raw, path))) or any(
        g.get("output_activations") for g in groups
    ):
        raise ArtifactError(
            "the checkpoint rounds activations as well as weights in a way that is not known here; read as weights "
            "alone it would be another model",
            where=str(path),
            fix="use the checkpoint that was quantized, in bf16 or float32, or one whose inputs are rounded by token (W8A8)",
        )
    return any(inputs)


def load(
    folder: Path, *, dtype: torch.dtype = torch.float32, device: str = "cpu", trainable: bool = False
) -> Transformer:
    """The model in `folder`, with float weights as `dtype`. `trainable`: int8 layers become float ones, which can learn.

    Where the folder has a manifest (artifact.json), the SHA-256 of every file is checked first. ArtifactError for a
    damaged or missing file, for pickled weights, and for weights that do not fit the config (the first five differing
    names are given).
    """
    folder = Path(folder)
    header, state = read(folder, trainable=trainable)
    model = build(header.config, state, folder, dtype=dtype, device=device, int8=header.int8)
    if header.rounds_inputs:
        round_inputs(model)
    return model


def read(
    folder: Path, *, trainable: bool = False, adapted: Adapted | None = None
) -> tuple[Header, dict[str, Tensor]]:
    """The header and the tensors of a checkpoint, under the names of `transformer`; quantised ones as floats, but int8 with a
    scale a row stays as it is unless it is to be `trainable`. `adapted` changes both while the names are still the file's."""
    header = read_config(folder)
    if header.rounds_inputs and (trainable or adapted is not None):
        raise ArtifactError(
            "the checkpoint rounds inputs to int8 as well as weights (W8A8); as floats it would be another model",
            where=str(folder),
            fix="use the checkpoint that was quantized, in bf16 or float32",
        )
    manifest = folder / "artifact.json"
    if manifest.exists():
        verify(folder, json.loads(manifest.read_text(encoding="utf-8"))["files"])
    state = read_weights(folder)
    if trainable or not header.int8:
        state = quantised.floats(header.scheme, state, folder)
        header = header._replace(int8=False)
    if adapted is not None:
        config, state = adapted(header.config, state)
        header = header._replace(config=config)
    return header, incoming(header.family, header.config, state)


def build(
    config: ModelConfig,
    state: dict[str, Tensor],
    where: Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    int8: bool = False,
) -> Transformer:
    """The model of a config and a state dict, which is used up. ArtifactError, which says `where`, if the two do not fit.

    `int8`: the layers with a `weight_scale` stay as they are, and everything else becomes bf16.
    """
    take_ours()
    scaled = {name.removesuffix(".weight_scale") for name in state if name.endswith(".weight_scale")}
    with torch.device("meta"):
        model = Transformer(config)
        if int8:
            with_int8_layers(model, scaled)
    expected = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    for name in list(state):
        if name not in expected and _redundant(name, state):
            del state[name]
    _check_fit(expected, state, where)
    dtype = torch.bfloat16 if int8 else dtype
    for name, tensor in state.items():
        if int8 and (name.endswith(".weight_scale") or tensor.dtype == torch.int8):
            state[name] = (
                tensor.clone()
            )  # in the file it starts at any byte, and the int8 kernel needs it aligned
        else:
            state[name] = tensor.to(dtype)
    model.load_state_dict(state, assign=True)
    return model.to(device)


def _redundant(name: str, state: dict[str, Tensor]) -> bool:
    """What older files hold beside the weights: tables of angles, and a copy of tied embeddings."""
    if name == "lm_head.weight":
        tied = state.get("model.embed_tokens.weight")
        return tied is not None and torch.equal(tied, state[name])
    return name.endswith("rotary_emb.inv_freq")


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, from one file or from the shards of its index. ArtifactError for what cannot be read."""
    index = folder / INDEX
    if (folder / WEIGHTS).exists() or not index.exists():
        return read_file(folder / WEIGHTS)
    try:
        places: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = sorted(set(places.values()))
        inside = all(Path(shard).name == shard for shard in shards)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{INDEX} cannot be read: {error}", where=str(index)) from None
    if not inside:
        raise ArtifactError(f"{INDEX} names files outside the folder", where=str(index))
    if missing := [shard for shard in shards if not (folder / shard).exists()]:
        raise ArtifactError(
            f"{len(missing)} of {len(shards)} shards are missing: {', '.join(missing[:5])}",
            where=str(folder),
            fix="copy the whole checkpoint",
        )
    state: dict[str, Tensor] = {}
    for shard in shards:
        state |= read_file(folder / shard)
    if lacking := [name for name in places if name not in state]:
        shown = ", ".join(lacking[:5])
        raise ArtifactError(f"{len(lacking)} tensors of {INDEX} are in no shard: {shown}", where=str(folder))
    return state


def read_file(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. ArtifactError where there is none, or one that cannot be read."""
    try:
        return load_file(path)
    except FileNotFoundError:
        pickled = sorted(found.name for kind in PICKLES for found in path.parent.glob(kind))
        if pickled:
            raise ArtifactError(
                f"the weights are pickled ({pickled[0]}), and loading a pickle runs whatever code is in it",
                where=str(path.parent),
                fix="use a checkpoint with .safetensors files; the one who made it can write them",
            ) from None
        raise ArtifactError(f"the checkpoint has no {path.name}", where=str(path.parent)) from None
    except OSError as error:
        what = (
            f"{path.name} is a folder" if path.is_dir() else f"{path.name} cannot be read: {error.strerror}"
        )
        raise ArtifactError(what, where=str(path), fix="copy the checkpoint again") from None
    except SafetensorError as error:
        with path.open("rb") as file:
            start = file.read(4)
        if start[:2] == b"PK" or start[:1] == b"\x80":
            said = (
                f"{path.name} is a pickle under another name, and loading it would run whatever code is in it"
            )
            raise ArtifactError(said, where=str(path), fix="use a checkpoint of real safetensors") from None
        fix = "the file is damaged: copy it again, or run the recipe again to make it anew"
        raise ArtifactError(f"{path.name} cannot be read: {error}", where=str(path), fix=fix) from None


def _check_fit(expected: dict[str, tuple[int, ...]], state: dict[str, Tensor], path: Path) -> None:
    stored = {name: tuple(tensor.shape) for name, tensor in state.items()}
    wrong = [
        name for name in sorted(expected.keys() | stored.keys()) if expected.get(name) != stored.get(name)
    ]
    if wrong == ["lm_head.weight"] and wrong[0] not in expected:
        raise ArtifactError(
            "config.json says that the output matrix is the embeddings (`tie_word_embeddings`), and the weights hold "
            "another one (lm_head.weight)",
            where=str(path),
            fix='write "tie_word_embeddings": false in config.json if lm_head.weight is meant; else remove that tensor',
        )
    if wrong:
        none = "none"
        shown = ", ".join(
            f"{n} (config: {expected.get(n, none)}, file: {stored.get(n, none)})" for n in wrong[:5]
        )
        first = ", the first five" if len(wrong) > 5 else ""
        raise ArtifactError(
            f"the weights do not fit config.json: {len(wrong)} names or shapes differ{first}: {shown}",
            where=str(path),
            fix="use the config.json that was saved with these weights",
        )


class Quantisation(NamedTuple):
    """Quantised matrices: `quantization_config`, and the tensors that take their place (`layer.weight_packed`)."""

    scheme: dict[str, Any]
    tensors: dict[str, Tensor]


def save(
    model: Transformer,
    folder: Path,
    *,
    eos: int | Sequence[int],
    pad: int,
    bos: int | None = None,
    dtype: torch.dtype | None = None,
    generation: Generation | None = None,
    quantisation: Quantisation | None = None,
) -> None:
    """Writes the three files: weights as they are, or in the compressed-tensors layout where the layers are int8.

    `eos`: the ids that end a reply, the usual one first. `dtype`: what float weights are rounded to; None leaves them.
    `generation`: how replies are drawn where nobody says otherwise. `quantisation`: what stands in place of matrices.
    """
    int8 = any(isinstance(module, Int8Linear) for module in model.modules())
    if int8:
        _check_quantizable(model.config)
    folder.mkdir(parents=True, exist_ok=True)
    ends = eos if isinstance(eos, int) else eos[0] if len(eos) == 1 else list(eos)
    config = to_huggingface(model.config, bos=bos, eos=ends, pad=pad)
    state = model.state_dict()
    if quantisation is not None:
        replaced = {f"{name.rpartition('.')[0]}.weight" for name in quantisation.tensors}
        state = {
            name: tensor for name, tensor in state.items() if name not in replaced
        } | quantisation.tensors
        dtype = torch.bfloat16
        config |= {"quantization_config": quantisation.scheme, "dtype": "bfloat16"}
    elif int8:
        inputs = BY_TOKEN if rounds_inputs(model) else None
        config |= {"quantization_config": int8_scheme(inputs), "dtype": "bfloat16"}
    elif dtype is not None:
        config["dtype"] = str(dtype).removeprefix("torch.")
    write_json(folder / "config.json", config)
    ids = {"eos_token_id": ends, "pad_token_id": pad}
    write_json(folder / generation_config.FILE, ids | generation_config.entries(generation))
    save_weights(model.config, state, folder, dtype=dtype)


def save_weights(
    config: ModelConfig, state: dict[str, Tensor], folder: Path, *, dtype: torch.dtype | None = None
) -> None:
    """Writes `model.safetensors` under the names of the config's family."""
    written = outgoing(
        family(config), config, {name: tensor.detach().cpu() for name, tensor in state.items()}
    )
    for name, tensor in written.items():
        wide = tensor.is_floating_point() and tensor.itemsize > 1  # float8 is quantised already
        keep = dtype is None or not wide or name.endswith(KEPT)
        written[name] = (tensor if keep else tensor.to(dtype)).contiguous()
    with atomic_path(folder / WEIGHTS) as temporary:
        save_file(written, temporary, metadata={"format": "pt"})


KEPT = ("weight_scale", "e_score_correction_bias")
"""Tensors that are never rounded: scales of int8, and the experts' bias, which moves by thousandths."""


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


def _check_quantizable(config: ModelConfig) -> None:
    """ArtifactError where no other program could load the int8 layout."""
    fix = "quantize it with `scheme: bf16`"
    if config.experts is not None:
        raise ArtifactError(
            "a mixture of experts cannot be saved as int8: transformers keeps all experts in one tensor, which it reads "
            "from no int8 file",
            fix=fix,
        )
    if (name := family(config)) == "gpt2":
        raise ArtifactError(
            f"{name} keeps its matrices in a layout that compressed-tensors has no int8 for", fix=fix
        )


def compressed_tensors(
    layout: str, weights: dict[str, object], inputs: dict[str, object] | None = None
) -> dict[str, object]:
    """`quantization_config` of config.json: all linear layers but the head in a layout of compressed-tensors, with what is said
    of their weights and, where engines round these too, of their inputs."""
    group: dict[str, object] = {"targets": ["Linear"], "format": layout, "weights": weights}
    return {
        "quant_method": "compressed-tensors",
        "format": layout,
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": group if inputs is None else {**group, "input_activations": inputs}},
    }


def int8_scheme(inputs: dict[str, object] | None) -> dict[str, object]:
    weights = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False}
    return compressed_tensors("int-quantized", weights, inputs)
