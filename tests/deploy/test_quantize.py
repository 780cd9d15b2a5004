"""int8: a bounded error per weight, logits close to the originals, and a checkpoint whole in itself."""

from __future__ import annotations

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trivium.deploy.quantize import quantize
from trivium.generate.engine import SamplingParams, generate
from trivium.model import hf, int8
from trivium.text.chat import ChatTokenizer
from trivium.text.tokenizer import FILES

numbers = st.floats(-1e4, 1e4, width=32, allow_subnormal=False)


@settings(max_examples=200, deadline=None)
@given(
    weight=arrays.arrays(
        np.float32, arrays.array_shapes(min_dims=2, max_dims=2, max_side=8), elements=numbers
    )
)
def test_no_weight_moves_by_more_than_half_a_step(weight):
    exact = torch.from_numpy(weight)
    small, scale = int8.quantize(exact)
    assert small.dtype == torch.int8
    assert scale.shape == (len(weight), 1)
    assert int(small.abs().max()) <= 127
    step = scale.float()
    error = (small.float() * step - exact).abs()
    assert (error <= step / 2 * (1 + 1e-5)).all()
    largest = exact.abs().amax(dim=1, keepdim=True)
    assert (error <= largest / 254 * (1 + 2**-8) + 1e-12).all()  # the scale itself is rounded to bf16
    assert ((exact > 0) >= (small > 0)).all() and ((exact < 0) >= (small < 0)).all()  # no sign turns


def test_inputs_are_rounded_by_token_and_products_are_those_of_whole_numbers():
    draw = torch.Generator().manual_seed(0)
    layer = int8.Int8Linear.of(torch.nn.Linear(50, 24))
    x = torch.randn(4, 50, generator=draw) * torch.tensor([[1.0], [1e-4], [1e4], [0.0]])
    numbers, step = int8.rounded(x)
    assert (numbers == numbers.round()).all() and numbers.min() >= -128 and numbers.max() <= 127
    assert ((numbers * step - x).abs() <= step * 0.5001).all() and not numbers[3].any()
    layer.rounds_inputs = True
    exact = numbers.long() @ layer.weight.long().T
    expected = exact * step.double() * layer.weight_scale.double().flatten() + layer.bias.double()
    assert torch.allclose(layer(x).double(), expected, rtol=1e-5)
    assert torch.allclose(layer(x.bfloat16()).double(), expected, rtol=0.02, atol=0.02 * float(step.max()))
    x[1, 3] = torch.nan
    assert [bool(row.isfinite().all()) for row in layer(x)] == [True, False, True, True]


def test_a_channel_of_zeros_stays_zero():
    small, scale = int8.quantize(torch.zeros(3, 4))
    assert not (small.float() * scale.float()).any()
    assert scale.isfinite().all()


def test_channels_have_scales_of_their_own():
    """A channel a million times smaller keeps its precision."""
    exact = torch.tensor([[1e3, -5e2], [1e-3, -5e-4]])
    small, scale = int8.quantize(exact)
    assert torch.allclose(small.float() * scale.float(), exact, rtol=0.01)


@pytest.mark.parametrize("rows", [1, int8.PACKED_ROWS, int8.PACKED_ROWS + 1, 40])
@pytest.mark.parametrize("inputs", [64, 50])
@pytest.mark.parametrize("shift", [0, 1])
def test_both_kernels_give_the_product_with_the_stored_weights(rows, inputs, shift):
    """Whatever the width, and wherever in memory the weights begin (torch's packed kernel crashes on odd ones)."""
    draw = torch.Generator().manual_seed(0)
    layer = int8.Int8Linear(inputs, 32)
    small, scale = int8.quantize(torch.randn(32, inputs, generator=draw))
    elsewhere = torch.empty(32 * inputs + shift, dtype=torch.int8)[shift:].view(32, inputs).copy_(small)
    layer.load_state_dict({"weight": elsewhere, "weight_scale": scale}, assign=True)
    assert int8.packable(layer.weight) is (inputs == 64 and shift == 0)
    x = torch.randn(rows, inputs, generator=draw).to(torch.bfloat16)
    expected = x.double() @ (small.double() * scale.double()).T
    assert (layer(x).double() - expected).abs().max() < 0.02 * expected.abs().max()
    assert layer(x[:, None]).shape == (rows, 1, 32)
    shifted = torch.cat((x.flatten()[:shift], x.flatten()))[shift:].view(rows, inputs)
    assert torch.allclose(layer(shifted), layer(x), rtol=0.02, atol=0.02 * float(expected.abs().max()))


def test_the_int8_checkpoint_says_what_the_original_says(checkpoint, tmp_path):
    source, out = checkpoint("source", dim=64, head_dim=16), tmp_path / "int8"
    metrics = quantize(source, out)
    exact, small = hf.load(source).eval(), hf.load(out).eval()
    tokens = torch.randint(0, 320, (4, 40), generator=torch.Generator().manual_seed(0))
    batch = {"tokens": tokens, "positions": torch.arange(40).expand(4, 40)}
    with torch.no_grad():
        a, b = (model(batch, {"logits"}).logits for model in (exact, small))
    assert (a - b).abs().mean() < 0.05 * a.std()
    assert (a.argmax(-1) == b.argmax(-1)).float().mean() > 0.9
    assert not torch.equal(a, b)
    layers = [module for module in small.modules() if isinstance(module, int8.Int8Linear)]
    assert layers and all(int8.packable(layer.weight) for layer in layers), "loaded for the fast kernel"
    assert metrics["bytes_before"] == (source / hf.WEIGHTS).stat().st_size
    assert metrics["bytes_after"] == (out / hf.WEIGHTS).stat().st_size
    assert metrics["ratio"] == metrics["bytes_before"] / metrics["bytes_after"] > 2
    assert 0 < metrics["worst_relative_error"] <= 1 / 254 * 1.01
    for name in FILES:
        assert (out / name).read_bytes() == (source / name).read_bytes()
    prompt = ChatTokenizer.load(out).prompt([{"role": "user", "content": "the cat"}])
    assert len(generate(small, [prompt], SamplingParams(max_new_tokens=5), ())[0]) == 5
