"""Weights that other programs quantised: read as what their own formula, or library, says that they stand for."""

from __future__ import annotations

import json
from pathlib import Path

import families
import pytest
import torch
from safetensors.torch import load_file, save_file

from trivium.errors import ArtifactError
from trivium.model import hf, quantised

HERE = Path("x")
DRAW = torch.Generator().manual_seed(0)


def integers(*shape, bits=4):
    return torch.randint(0, 1 << bits, shape, generator=DRAW)


def packed(values, bits=4, order=None):
    """(N, K) -> (N, K bits / 32): one number at a time, as the layouts are written down."""
    each = 32 // bits
    order = order or range(each)
    out = torch.zeros(values.shape[0], values.shape[1] // each, dtype=torch.int64)
    for place, source in enumerate(order):
        out |= values[:, source::each] << (bits * place)
    return (out - (out >= 2**31).long() * 2**32).to(torch.int32)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("layout", ["gptq", "gptq_v2"])
@pytest.mark.parametrize("shuffled", [False, True])
def test_gptq(bits, layout, shuffled):
    inputs, outputs, groups = 64, 32, 4
    values, zeros = integers(inputs, outputs, bits=bits), integers(groups, outputs, bits=bits)
    scales = torch.rand(groups, outputs, generator=DRAW).half()
    order = torch.arange(inputs) // 16
    order = order[torch.randperm(inputs, generator=DRAW)] if shuffled else order
    stored = zeros if layout == "gptq_v2" else (zeros - 1) % (1 << bits)
    state = {
        "l.qweight": packed(values.T, bits).T.contiguous(), "l.qzeros": packed(stored, bits), "l.scales": scales,
        "l.g_idx": order.int(), "l.bias": torch.zeros(outputs),
    }  # fmt: skip
    made = quantised.floats({"quant_method": "gptq", "bits": bits, "checkpoint_format": layout}, state, HERE)
    zeros = zeros if layout == "gptq_v2" else stored + 1
    expected = [
        [float(scales[order[k], n]) * int(values[k, n] - zeros[order[k], n]) for k in range(inputs)]
        for n in range(outputs)
    ]
    assert made.keys() == {"l.weight", "l.bias"}
    torch.testing.assert_close(made["l.weight"], torch.tensor(expected))


def test_awq():
    inputs, outputs, groups = 64, 32, 2
    values, zeros = integers(inputs, outputs), integers(groups, outputs)
    scales = torch.rand(groups, outputs, generator=DRAW).half()
    order = (0, 2, 4, 6, 1, 3, 5, 7)
    state = {
        "l.qweight": packed(values, order=order),
        "l.qzeros": packed(zeros, order=order),
        "l.scales": scales,
    }
    made = quantised.floats({"quant_method": "awq", "bits": 4, "version": "gemm"}, state, HERE)["l.weight"]
    group = torch.arange(inputs) // 32
    torch.testing.assert_close(made, (scales.float()[group] * (values - zeros[group])).T)


def test_fp8_by_blocks_and_as_a_whole():
    exact = torch.randn(200, 130, generator=DRAW)
    blocks = torch.rand(2, 2, generator=DRAW) + 0.5
    weight = exact.to(torch.float8_e4m3fn)
    scheme = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    made = quantised.floats(scheme, {"l.weight": weight, "l.weight_scale_inv": blocks}, HERE)["l.weight"]
    for row, column in ((0, 0), (127, 127), (128, 0), (199, 129)):
        assert made[row, column] == float(weight[row, column]) * blocks[row // 128, column // 128]
    one = quantised.floats(
        {"quant_method": "fp8"}, {"l.weight": weight, "l.weight_scale_inv": torch.tensor(2.0)}, HERE
    )
    assert torch.equal(one["l.weight"], 2 * weight.float())


@pytest.mark.parametrize("symmetric", [True, False])
def test_packed_integers_of_compressed_tensors(symmetric):
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    values = integers(32, 64) - 8
    scales = torch.rand(32, 4, generator=DRAW)
    zeros = integers(32, 4) - 8
    state = {
        "l.weight_packed": pack_to_int32(values.to(torch.int8), 4), "l.weight_scale": scales,
        "l.weight_shape": torch.tensor([32, 64]),
    }  # fmt: skip
    if not symmetric:
        state["l.weight_zero_point"] = pack_to_int32(zeros.to(torch.int8), 4, packed_dim=0).contiguous()
    scheme = {"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"num_bits": 4}}}}
    made = quantised.floats(scheme, state, HERE)
    group = torch.arange(64) // 16
    expected = scales[:, group] * (values - (0 if symmetric else zeros[:, group]))
    assert made.keys() == {"l.weight"}
    torch.testing.assert_close(made["l.weight"], expected)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("nested", [False, True])
def test_bitsandbytes_in_four_bits(kind, nested):
    functional = pytest.importorskip("bitsandbytes.functional")
    exact = torch.randn(48, 64, generator=DRAW)
    weight, how = functional.quantize_4bit(exact, quant_type=kind, compress_statistics=nested)
    state = {"l.weight": weight, **{f"l.weight.{n}": t for n, t in how.as_dict(packed=True).items()}}
    made = quantised.floats({"quant_method": "bitsandbytes"}, dict(state), HERE)
    assert made.keys() == {"l.weight"}
    torch.testing.assert_close(
        made["l.weight"], functional.dequantize_4bit(weight, how), atol=1e-6, rtol=1e-5
    )


def test_bitsandbytes_in_eight_bits():
    values, scale = integers(8, 16, bits=8) - 128, torch.rand(8, generator=DRAW)
    state = {
        "l.weight": values.to(torch.int8),
        "l.SCB": scale,
        "l.weight_format": torch.tensor(0, dtype=torch.uint8),
    }
    made = quantised.floats({"quant_method": "bitsandbytes"}, state, HERE)
    torch.testing.assert_close(made["l.weight"], values * scale[:, None] / 127)


def _mxfp4(experts, outputs, inputs):
    """(blocks, exponents) as gpt-oss's files hold them."""
    blocks = torch.randint(0, 256, (experts, outputs, inputs // 32, 16), generator=DRAW, dtype=torch.uint8)
    exponents = torch.randint(118, 124, (experts, outputs, inputs // 32), generator=DRAW, dtype=torch.uint8)
    return blocks, exponents


def test_mxfp4_is_what_transformers_makes_of_it():
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    blocks, exponents = _mxfp4(3, 10, 64)
    state = {
        "e.down_proj_blocks": blocks,
        "e.down_proj_scales": exponents,
        "e.down_proj_bias": torch.ones(3, 10),
    }
    made = quantised.floats({"quant_method": "mxfp4"}, state, HERE)
    assert made.keys() == {"e.down_proj", "e.down_proj_bias"}
    assert torch.equal(
        made["e.down_proj"], convert_moe_packed_tensors(blocks, exponents, dtype=torch.float32)
    )


def test_a_gpt_oss_in_mxfp4_has_the_logits_of_its_dequantised_weights(tmp_path):
    """As it is published: the experts' matrices in blocks, all else in bf16."""
    from transformers import AutoModelForCausalLM
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    families.CASES["wide oss"] = (
        "gpt_oss",
        families.CASES["gpt-oss"][1] | {"hidden_size": 64, "intermediate_size": 32},
    )
    theirs = families.checkpoint("wide oss", tmp_path)
    state, exact = load_file(tmp_path / "model.safetensors"), {}
    for name in [n for n in state if n.endswith((".experts.gate_up_proj", ".experts.down_proj"))]:
        experts, inputs, outputs = state.pop(name).shape
        blocks, exponents = _mxfp4(experts, outputs, inputs)
        state |= {f"{name}_blocks": blocks, f"{name}_scales": exponents}
        exact[name] = convert_moe_packed_tensors(blocks, exponents, dtype=torch.float32)
    assert exact
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    theirs.load_state_dict(exact, strict=False)
    ours, tokens = hf.load(tmp_path), families.tokens()
    with torch.no_grad():
        assert (families.logits(ours, tokens) - theirs(tokens).logits).abs().max() < 1e-4
    hf.save(ours, tmp_path / "ours", eos=96, pad=1)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.float32).eval()
    with torch.no_grad():
        assert (again(tokens).logits - theirs(tokens).logits).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("scheme", "said"),
    [
        ({"quant_method": "quip"}, "quantized by 'quip'; known are"),
        ({"quant_method": "gptq", "bits": 3}, "3 bits a weight"),
        ({"quant_method": "gptq"}, "no 'bits'"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "in the layout gemv"),
        ({"quant_method": "mxfp4"}, "exponents .* for blocks"),
    ],
)
def test_what_cannot_be_read_is_said(scheme, said):
    state = {
        "l.qweight": packed(integers(8, 8)),
        "l.qzeros": packed(integers(1, 8)),
        "l.scales": torch.ones(1, 8),
        "l_blocks": torch.zeros(1, 2, 3, 16, dtype=torch.uint8),
        "l_scales": torch.zeros(1, 2, 2, dtype=torch.uint8),
    }
    with pytest.raises(ArtifactError, match=said):
        quantised.floats(scheme, state, HERE)


def _quantised_folder(folder: Path) -> dict[str, torch.Tensor]:
    """A Llama whose linear layers are GPTQ; gives what their weights stand for."""
    families.CASES["wide"] = ("llama", {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16})
    families.checkpoint("wide", folder)
    state, exact = load_file(folder / "model.safetensors"), {}
    for name in [n for n in state if "_proj.weight" in n]:
        stem, weight = name.removesuffix(".weight"), state.pop(name)
        scale = (weight.abs().amax(1) / 7).half()
        values = ((weight.T / scale.float()).round().clamp(-8, 7) + 8).long()
        exact[name] = ((values - 8) * scale.float()).T
        state |= {
            f"{stem}.qweight": packed(values.T).T.contiguous(), f"{stem}.scales": scale[None],
            f"{stem}.qzeros": packed(torch.full((1, len(scale)), 7)),
        }  # fmt: skip
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": -1}
    (folder / "config.json").write_text(json.dumps(config))
    return exact


def test_a_quantised_folder_is_a_checkpoint_like_any_other(tmp_path):
    exact = _quantised_folder(tmp_path / "folder")
    state = hf.load(tmp_path / "folder").state_dict()
    for name, weight in exact.items():
        torch.testing.assert_close(state[name], weight)


def test_int8_of_our_own_can_be_trained(checkpoint, tmp_path):
    """The layers of an int8 checkpoint are parameters again, and say what the integers stand for."""
    from trivium.model.int8 import Int8Linear

    source = hf.load(checkpoint("plain", dim=64, head_dim=16))
    hf.save(hf.quantized(source), tmp_path / "small", eos=1, pad=0)
    small, floats = hf.load(tmp_path / "small"), hf.load(tmp_path / "small", trainable=True)
    layers = {name: module for name, module in small.named_modules() if isinstance(module, Int8Linear)}
    assert layers
    assert not any(isinstance(module, Int8Linear) for module in floats.modules())
    for name, layer in layers.items():
        assert torch.equal(floats.get_parameter(f"{name}.weight"), layer.dequantised())
    assert {name for name, _ in floats.named_parameters()} == set(floats.state_dict())
