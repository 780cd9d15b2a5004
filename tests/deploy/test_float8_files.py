"""float8, and int8 whose inputs are rounded: a bounded error per weight, the layout of compressed-tensors, logits as transformers
computes them from the file."""

from __future__ import annotations

import json
from contextlib import nullcontext

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_models import random_gpt2, random_model
from test_int4 import SHAPE, TEXTS

from trivium.deploy import float8, quantize
from trivium.deploy.export import export
from trivium.errors import ArtifactError
from trivium.model import hf
from trivium.recipe.deployment import ExportStage, QuantizeStage

numbers = st.floats(-1e4, 1e4, width=32, allow_subnormal=False)


@settings(max_examples=100)
@given(
    weight=arrays.arrays(
        np.float32, arrays.array_shapes(min_dims=2, max_dims=2, max_side=8), elements=numbers
    )
)
def test_no_weight_moves_by_more_than_half_a_step(weight):
    exact = torch.from_numpy(weight)
    small, scale = float8.nearest(exact)
    assert small.dtype == torch.float8_e4m3fn and scale.dtype == torch.bfloat16
    assert scale.shape == (len(weight), 1)
    error = (small.float() * scale.float() - exact).abs()
    # three bits of mantissa: a sixteenth of the number, and near zero half of 2^-9; a scale rounded down cuts the largest by 2^-9
    assert (error <= exact.abs() / 16 * (1 + 2**-6) + 2**-10 * scale.float()).all()


def stage(scheme: str) -> QuantizeStage:
    return QuantizeStage.model_validate(
        {"kind": "quantize", "model": "a", "scheme": scheme, "data": "docs", "items": 24}
    )


@pytest.fixture
def made(checkpoint, write_documents, tmp_path):
    """A function that makes the checkpoint of a scheme and gives its folder and what was measured."""
    for split in ("train", "heldout"):
        write_documents(tmp_path / "data" / split, 0, [f"{text} {split}" for text in TEXTS])
    source = checkpoint("source", **SHAPE)

    def make(scheme: str):
        out = tmp_path / scheme
        measured = quantize.run(stage(scheme), source, tmp_path / "data", out, lambda event: None)
        return out, measured

    return make


@pytest.mark.parametrize(
    ("scheme", "most"), [("float8", 1 / 28), ("float8-dynamic", 1 / 28), ("int8-dynamic", 1 / 254)]
)
def test_transformers_gives_the_logits_that_we_measure(scheme, most, made):
    """It rounds the inputs where the file says so; our engine does so for int8, and for float8 when it measures."""
    transformers = pytest.importorskip("transformers")
    out, measured = made(scheme)
    assert measured["ratio"] > 2
    assert 0 < measured["worst_relative_error"] <= most * 1.01
    ours = hf.load(out).float().eval()
    tokens = torch.randint(0, 320, (2, 40), generator=torch.Generator().manual_seed(0))
    batch = {"tokens": tokens, "positions": torch.arange(40).expand(2, 40)}
    theirs = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    inputs = float8.rounded_inputs(ours) if scheme == "float8-dynamic" else nullcontext()
    with torch.no_grad(), inputs:
        apart = (ours(batch, {"logits"}).logits - theirs(tokens).logits).abs().amax(-1).flatten()
    print(apart.sort().values)
    assert apart.median() < 1e-4 and apart.max() < (0.05 if scheme == "int8-dynamic" else 1e-3)


def group_of(out, preset):
    """What the file says of its matrices, which is what compressed-tensors' preset says."""
    presets = pytest.importorskip("compressed_tensors.quantization")
    said = json.loads((out / "config.json").read_text())["quantization_config"]
    [group] = presets.QuantizationConfig.model_validate(said).config_groups.values()
    wanted = presets.preset_name_to_scheme(preset, ["Linear"])
    for part in ("weights", "input_activations"):
        theirs, ours = getattr(wanted, part), getattr(group, part)
        for key in ("num_bits", "type", "strategy", "symmetric", "dynamic"):
            assert getattr(theirs, key) == getattr(ours, key), (part, key)
    return group


def test_a_file_of_int8_with_rounded_inputs_says_so_and_is_never_read_as_weights_alone(made, tmp_path):
    out, measured = made("int8-dynamic")
    group_of(out, "W8A8")
    assert measured["outputs"]["int8-dynamic"]["kl"] > made("int8")[1]["outputs"]["int8"]["kl"] > 0
    model = hf.load(out)
    assert model.model.layers[0].mlp.down_proj.rounds_inputs
    hf.save(model, tmp_path / "again", eos=5, pad=1)
    assert hf.read_config(tmp_path / "again").rounds_inputs
    with pytest.raises(ArtifactError, match="W8A8"):
        hf.load(out, trainable=True)
    stage = ExportStage.model_validate({"kind": "export", "model": "a", "types": ["q8_0"]})
    with pytest.raises(ArtifactError, match="no words for inputs"):
        export(stage, out, None, tmp_path / "gguf", lambda event: None)


def test_the_file_is_what_compressed_tensors_describes(made):
    compressors = pytest.importorskip("compressed_tensors.compressors")
    out, _ = made("float8-dynamic")
    group = group_of(out, "FP8_DYNAMIC")
    state = hf.read_weights(out)
    layer = "model.layers.0.mlp.down_proj"
    assert state[f"{layer}.weight"].dtype == torch.float8_e4m3fn
    parts = {name: state[f"{layer}.{name}"] for name in ("weight", "weight_scale")}
    theirs = compressors.FloatQuantizationCompressor.decompress(parts, group)["weight"]
    ours = parts["weight"].float() * parts["weight_scale"].float()
    assert torch.allclose(theirs.float(), ours, rtol=2**-7)  # theirs is in bf16


def test_rounded_inputs_are_measured_and_cost_more_than_weights_alone(made):
    kls = {
        scheme: made(scheme)[1]["outputs"][scheme]["kl"] for scheme in ("int8", "float8", "float8-dynamic")
    }
    assert 0 < kls["int8"] < kls["float8"] < kls["float8-dynamic"]


def test_inputs_are_rounded_by_token_and_only_inside():
    model = random_model()
    layer = model.model.layers[0].mlp.down_proj
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(0)) * torch.tensor([[1.0], [1e-3], [1e3]])
    plain = layer(x)
    with float8.rounded_inputs(model):
        rounded, alone = layer(x), layer(x[1:2])
    assert torch.equal(layer(x), plain)
    assert torch.allclose(rounded[1:2], alone, rtol=1e-5)
    error = (rounded - plain).norm(dim=1) / plain.norm(dim=1)
    assert (error > 1e-3).all() and (error < 0.1).all()


def test_layouts_without_float8_are_refused():
    with pytest.raises(ArtifactError, match="gpt2 keeps its matrices in a layout that has no float8"):
        float8.quantized(random_gpt2(), inputs=False)
