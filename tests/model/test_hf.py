"""The checkpoint is what transformers takes it for: same logits, same text, same tokens."""

import json

import families
import pytest
import torch
from safetensors.torch import load_file, save_file

from trivium.errors import ArtifactError
from trivium.files import sha256
from trivium.generate.engine import SamplingParams, generate
from trivium.model import hf
from trivium.model.config import ModelConfig
from trivium.model.int8 import Int8Linear
from trivium.model.transformer import Transformer

SHAPES = {
    "llama, tied": dict(heads=4, kv_heads=4, tie_embeddings=True),
    "llama, grouped queries, untied": dict(heads=4, kv_heads=2, tie_embeddings=False),
    "one key head, long rope": dict(heads=4, kv_heads=1, tie_embeddings=True, rope_theta=500_000.0),
    "qk norm (qwen3)": dict(heads=4, kv_heads=2, tie_embeddings=True, qk_norm=True),
    "wide heads (qwen3)": dict(heads=2, kv_heads=2, head_dim=32, tie_embeddings=False, qk_norm=True),
}


def make(**changes) -> Transformer:
    shape = (
        dict(vocab_size=97, dim=32, layers=2, heads=4, kv_heads=4, head_dim=8, hidden=64, context=48)
        | changes
    )
    model = Transformer(ModelConfig(**shape))
    generator = torch.Generator().manual_seed(3)
    model.initialise(generator)
    with torch.no_grad():  # norms that are not 1 and logits of a real size: a forgotten weight must show
        for parameter in model.parameters():
            parameter.mul_(3) if parameter.dim() == 2 else parameter.add_(
                torch.rand(parameter.shape, generator=generator) - 0.5
            )
    return model.eval()


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
def test_transformers_gives_the_same_logits_and_text(tmp_path, changes):
    from transformers import AutoModelForCausalLM

    model = make(**changes)
    hf.save(model, tmp_path, eos=96, pad=1)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    tokens = torch.randint(0, 97, (3, 40), generator=torch.Generator().manual_seed(0))
    positions = torch.arange(40)[None].expand(3, 40)
    with torch.no_grad():
        ours = model({"tokens": tokens, "positions": positions}, {"logits"}).logits
        expected = theirs(tokens).logits
    assert (ours - expected).abs().max() < 1e-4
    assert expected.std() > 0.1
    prompt = tokens[0, :10].tolist()
    replied = generate(model, [prompt], SamplingParams(max_new_tokens=12), stop=())[0]
    with torch.no_grad():
        greedy = theirs.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, 10),
            max_new_tokens=12,
            min_new_tokens=12,
            do_sample=False,
        )
    assert replied == greedy[0, 10:].tolist()


def test_int8_layout_is_read_by_transformers(tmp_path):
    """The compressed-tensors library decompresses our file to the very weights that we compute with."""
    pytest.importorskip("compressed_tensors")
    from transformers import AutoModelForCausalLM

    model = make(dim=64, heads=4, head_dim=16)
    small = hf.quantized(model).eval()
    hf.save(small, tmp_path, eos=5, pad=1)
    ours = hf.load(tmp_path).eval()
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    tokens = torch.randint(0, 97, (2, 30), generator=torch.Generator().manual_seed(0))
    positions = torch.arange(30)[None].expand(2, 30)
    with torch.no_grad():
        a = ours({"tokens": tokens, "positions": positions}, {"logits"}).logits
        b = theirs(tokens).logits.float()
        exact = model({"tokens": tokens, "positions": positions}, {"logits"}).logits
    noise = (a - exact).abs().max()  # rounding to int8 and bf16
    assert (a - b).abs().max() < noise
    assert noise < 0.15 * exact.std()


@pytest.mark.parametrize("name", ["gemma 3", "phi 4 mini's turned part"])
def test_int8_of_any_family_is_read_by_transformers(tmp_path, name):
    pytest.importorskip("compressed_tensors")
    from transformers import AutoModelForCausalLM

    families.checkpoint(name, tmp_path / "theirs")
    model = hf.load(tmp_path / "theirs").eval()
    small = hf.quantized(model).eval()
    assert any(isinstance(layer, Int8Linear) for layer in small.modules())
    hf.save(small, tmp_path / "int8", eos=96, pad=1)
    ours = families.logits(hf.load(tmp_path / "int8").eval(), families.tokens())
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "int8", dtype=torch.bfloat16).eval()
    with torch.no_grad():
        expected = theirs(families.tokens()).logits.float()
    exact = families.logits(model, families.tokens())
    assert ((ours - expected).norm() / exact.norm()).item() < 0.03  # bf16 on both sides, in other orders
    assert 0 < ((ours - exact).norm() / exact.norm()).item() < 0.1


@pytest.mark.parametrize("name", ["gpt 2", "gpt-oss", "qwen3 moe"])
def test_families_without_an_int8_layout_are_refused_by_name(tmp_path, name):
    families.checkpoint(name, tmp_path)
    small = hf.quantized(hf.load(tmp_path))
    with pytest.raises(ArtifactError, match=r"gpt2|mixture of experts") as caught:
        hf.save(small, tmp_path / "int8", eos=96, pad=1)
    assert "bf16" in caught.value.fix
    assert not (tmp_path / "int8").exists()


def test_float32_scales_are_not_rounded(tmp_path):
    """As llm-compressor writes them for a float32 model."""
    hf.save(hf.quantized(make(dim=64, heads=4, head_dim=16)), tmp_path, eos=5, pad=1)
    path = tmp_path / hf.WEIGHTS
    state = load_file(path)
    for name, tensor in state.items():
        if name.endswith("_scale"):
            state[name] = tensor.float() * 1.0013  # no number of bf16
    save_file(state, path, metadata={"format": "pt"})
    loaded = hf.load(tmp_path).eval()
    layer = loaded.model.layers[0].mlp.up_proj
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(layer.dequantised(), state[name].float() * state[f"{name}_scale"])
    x = torch.randn(2, 64, dtype=torch.bfloat16)
    assert torch.equal(layer(x), torch.nn.functional.linear(x, layer.dequantised().bfloat16()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"input_activations": {"num_bits": 8, "type": "int", "strategy": "tensor", "dynamic": False}},
            "W8A8",
        ),
        ({"input_activations": {**hf.BY_TOKEN, "symmetric": False}}, "W8A8"),
        ({"input_activations": hf.BY_TOKEN, "output_activations": hf.BY_TOKEN}, "W8A8"),
    ],
)
def test_other_schemes_are_not_taken_for_int8_weights(tmp_path, changes, message):
    hf.save(hf.quantized(make()), tmp_path, eos=5, pad=1)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"]["config_groups"]["group_0"] |= changes
    path.write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match=message):
        hf.load(tmp_path)


@pytest.mark.parametrize("name", ["gemma 3", "deepseek 3", "gpt-oss"])
def test_saving_in_bf16_rounds_each_weight_once(tmp_path, name):
    from transformers import AutoModelForCausalLM

    families.checkpoint(name, tmp_path / "theirs")
    model = hf.load(tmp_path / "theirs").eval()
    hf.save(model, tmp_path / "half", eos=96, pad=1, dtype=torch.bfloat16)
    hf.save(model, tmp_path / "whole", eos=96, pad=1)
    half, whole = load_file(tmp_path / "half" / hf.WEIGHTS), load_file(tmp_path / "whole" / hf.WEIGHTS)
    for tensor_name, tensor in whole.items():
        kept = tensor_name.endswith(hf.KEPT)
        assert torch.equal(half[tensor_name], tensor if kept else tensor.bfloat16())
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "half", dtype=torch.float32).eval()
    with torch.no_grad():
        expected = theirs(families.tokens()).logits
    assert (
        families.logits(hf.load(tmp_path / "half").eval(), families.tokens()) - expected
    ).abs().max() < 1e-4


def test_weights_survive_a_round_trip_bit_for_bit(tmp_path):
    model = make()
    hf.save(model, tmp_path, eos=5, pad=1)
    again = hf.load(tmp_path)
    assert again.config == model.config
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])


def test_a_folder_that_is_no_checkpoint(tmp_path):
    with pytest.raises(ArtifactError, match=r"no config\.json"):
        hf.load(tmp_path)


def test_truncated_weights_are_refused(tmp_path):
    hf.save(make(), tmp_path, eos=5, pad=1)
    path = tmp_path / hf.WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match="cannot be read"):
        hf.load(tmp_path)


def test_weights_of_another_shape_are_named(tmp_path):
    hf.save(make(), tmp_path, eos=5, pad=1)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"intermediate_size": 128}))
    with pytest.raises(
        ArtifactError, match=r"mlp\.down_proj\.weight \(config: \(32, 128\), file: \(32, 64\)\)"
    ):
        hf.load(tmp_path)


@pytest.mark.parametrize("name", [hf.WEIGHTS, "config.json"])
def test_a_folder_in_the_place_of_a_file(tmp_path, name):
    hf.save(make(), tmp_path, eos=5, pad=1)
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    with pytest.raises(ArtifactError, match=r"is a folder|no config\.json"):
        hf.load(tmp_path)


def test_tied_embeddings_beside_another_head_are_explained(tmp_path):
    hf.save(make(tie_embeddings=False), tmp_path, eos=5, pad=1)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tie_word_embeddings": True}))
    with pytest.raises(ArtifactError) as caught:
        hf.load(tmp_path)
    assert "hold another one (lm_head.weight)" in caught.value.what
    assert '"tie_word_embeddings": false' in caught.value.fix


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_key_value_heads": 3}, "4 heads cannot share 3 key/value heads"),
        ({"num_attention_heads": 0}, "cannot be read"),
        ({"num_hidden_layers": -1}, "`layers` is -1"),
        ({"hidden_size": 32.0, "head_dim": 8}, "`dim` is 32.0"),
        ({"head_dim": 7}, "cannot be turned in pairs"),
    ],
)
def test_counts_that_make_no_network_are_named(tmp_path, changes, message):
    hf.save(make(), tmp_path, eos=5, pad=1)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ArtifactError, match=message):
        hf.load(tmp_path)


def test_a_flipped_bit_is_found_by_the_checksum(tmp_path):
    hf.save(make(), tmp_path, eos=5, pad=1)
    path = tmp_path / hf.WEIGHTS
    good = sha256(path)
    (tmp_path / "artifact.json").write_text(json.dumps({"files": {hf.WEIGHTS: good}}))
    hf.load(tmp_path)
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match=good):
        hf.load(tmp_path)


def test_an_unknown_architecture_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    with pytest.raises(ArtifactError, match="mamba"):
        hf.load(tmp_path)
