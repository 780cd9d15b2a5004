"""int4: bounded rounding, GPTQ's smaller error of products, and a file that transformers reads as we do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_models import random_gpt2, random_model

from trivium.deploy import int4, quantize
from trivium.deploy.rows import token_rows
from trivium.errors import ArtifactError, RecipeError
from trivium.model import hf, quantised
from trivium.recipe.deployment import QuantizeStage
from trivium.recipe.load import loads
from trivium.text.chat import ChatTokenizer

TEXTS = [f"the cat sees the red ball number {number} in the garden" for number in range(24)]


@settings(max_examples=60)
@given(
    rows=st.integers(1, 6), groups=st.integers(1, 4), group=st.sampled_from([8, 32]), seed=st.integers(0, 99)
)
def test_no_weight_moves_by_more_than_half_a_step(rows, groups, group, seed):
    weight = torch.randn(rows, groups * group, generator=torch.Generator().manual_seed(seed))
    rounded = int4.nearest(weight, group)
    step = rounded.scales.float().repeat_interleave(group, 1)
    assert int(rounded.integers.min()) >= -8 and int(rounded.integers.max()) <= 7
    # 7.5 steps reach the largest weight, 7 are there; a scale rounded down in bf16 leaves a little more
    assert ((rounded.floats() - weight).abs() <= step * (0.5 + 8 * 2**-8)).all()


@settings(max_examples=30)
@given(rows=st.integers(1, 6), columns=st.sampled_from([8, 32, 64]), seed=st.integers(0, 99))
def test_packing_is_that_of_compressed_tensors(rows, columns, seed):
    library = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
    draw = torch.Generator().manual_seed(seed)
    integers = torch.randint(-8, 8, (rows, columns), generator=draw, dtype=torch.int8)
    part = int4.Rounded(integers, torch.ones(rows, 1, dtype=torch.bfloat16)).tensors("l")
    assert torch.equal(part["l.weight_packed"], library.pack_to_int32(integers, 4))
    [weight] = quantised.floats(int4.scheme(columns), dict(part), Path("x")).values()
    assert torch.equal(weight, integers.float())


def correlated(tokens: int, width: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    mixing = torch.randn(width // 4, width, generator=draw)
    few = torch.randn(tokens, width // 4, generator=draw) @ mixing
    return (few + 0.3 * torch.randn(tokens, width, generator=draw)).double()


@pytest.mark.parametrize("group", [32, 96, 192])
def test_gptq_halves_the_error_of_products(group):
    """Also where a group lies across two blocks of columns; on inputs that it has not seen, too."""
    inputs = correlated(3000, 192)
    seen, unseen = inputs[:2000], inputs[2000:]
    weight = torch.randn(64, 192, generator=torch.Generator().manual_seed(1))

    def error(rounded: int4.Rounded) -> float:
        return float(((rounded.floats() - weight).double() @ unseen.T).square().mean().sqrt())

    assert error(int4.gptq(weight, seen.T @ seen, group)) < 0.5 * error(int4.nearest(weight, group))


def test_gptq_of_inputs_that_do_not_correlate_is_nearest():
    weight = torch.randn(16, 64, generator=torch.Generator().manual_seed(1))
    rounded = int4.gptq(weight, torch.eye(64), 32)
    scale = rounded.scales.double().repeat_interleave(32, 1)
    assert torch.equal(rounded.integers, int4._integers(weight.double(), scale))
    off, theirs = ((r.floats() - weight).square().sum() for r in (rounded, int4.nearest(weight, 32)))
    assert off < 0.95 * theirs, "scales are those that leave the least"


def test_gptq_does_not_stumble_over_inputs_that_are_never_there():
    inputs = correlated(200, 64)
    inputs[:, [0, 40]] = 0
    rounded = int4.gptq(torch.randn(8, 64), inputs.T @ inputs, 32)
    assert rounded.floats().isfinite().all()
    assert not rounded.integers[:, [0, 40]].any()


def stage(**fields) -> QuantizeStage:
    return QuantizeStage.model_validate({"kind": "quantize", "model": "a", "scheme": "int4", **fields})


@pytest.fixture
def data(write_documents, tmp_path) -> Path:
    for split in ("train", "heldout"):
        write_documents(tmp_path / "data" / split, 0, [f"{text} {split}" for text in TEXTS])
    return tmp_path / "data"


SHAPE = dict(dim=64, head_dim=16, hidden=96)


def test_gptq_keeps_more_of_the_model_than_rounding(checkpoint, data, tmp_path):
    source = checkpoint("source", **SHAPE)
    outputs = {}
    for method in ("nearest", "gptq"):
        config = stage(method=method, data="docs", items=24)
        [outputs[method]] = quantize.run(config, source, data, tmp_path / method, lambda event: None)[
            "outputs"
        ].values()
    assert outputs["gptq"]["kl"] < 0.8 * outputs["nearest"]["kl"]
    assert outputs["gptq"]["calibrated"] and not outputs["nearest"]["calibrated"]
    assert outputs["gptq"]["bytes"] == outputs["nearest"]["bytes"]


@pytest.mark.parametrize(
    "shape", [{}, {"qkv_bias": True}, {"qk_norm": True}], ids=["llama", "qwen2", "qwen3"]
)
def test_transformers_gives_the_logits_that_we_give(shape, checkpoint, data, tmp_path):
    transformers = pytest.importorskip("transformers")
    source, out = checkpoint("source", **SHAPE, **shape), tmp_path / "int4"
    rows = token_rows(data / "train", ChatTokenizer.load(source), context=64, count=8)
    sizes = quantize.quantize(source, out, "int4", rows=rows)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    ours = hf.load(out).eval()
    tokens = torch.randint(0, 320, (2, 40), generator=torch.Generator().manual_seed(0))
    batch = {"tokens": tokens, "positions": torch.arange(40).expand(2, 40)}
    with torch.no_grad():
        assert (ours(batch, {"logits"}).logits - theirs(tokens).logits).abs().max() < 1e-4
    assert sizes["bytes_after"] == (out / hf.WEIGHTS).stat().st_size
    assert sizes["ratio"] > 2
    assert 0 < sizes["worst_relative_error"] < 1


def test_layouts_without_int4_are_refused():
    with pytest.raises(ArtifactError, match="no multiple of the group of 64"):
        int4.quantized(random_model(), 64, None)
    with pytest.raises(ArtifactError, match="gpt2"):
        int4.check(random_gpt2().config, 8)


@pytest.mark.parametrize(
    ("fields", "said"),
    [("scheme: int8, method: gptq", "`method` is for"), ("scheme: int4, method: gptq", "names no stage")],
)
def test_settings_without_effect_are_told(fields, said):
    with pytest.raises(RecipeError, match=said):
        loads(
            f"name: a\nstages:\n  b: {{kind: import, path: x}}\n  c: {{kind: quantize, model: b, {fields}}}\n"
        )
