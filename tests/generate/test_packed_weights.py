"""Packed weights are the model's own, for as long as the block lasts; bf16 and adapters included."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from random_models import random_model
from test_generate import fresh_logits, prompts

from trivium.generate.packed import packed
from trivium.generate.sampling import SamplingParams
from trivium.generate.slots import complete
from trivium.model import lora
from trivium.model.int8 import Int8Linear, quantize
from trivium.recipe.network import Adapter


@pytest.fixture
def adapted(model):
    made = copy.deepcopy(model)
    lora.attach(made, Adapter(rank=4), torch.Generator().manual_seed(0))
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name.endswith("lora_B"):
                parameter.normal_(std=0.1)
    return made


def test_the_layers_are_their_own_again(adapted):
    layer = adapted.model.layers[0].mlp.up_proj
    x = torch.randn(3, layer.in_features)
    expected = layer(x)
    with pytest.raises(RuntimeError, match="stop"), packed(adapted) as head:
        assert "forward" in vars(layer)
        torch.testing.assert_close(layer(x), expected)
        hidden = torch.randn(3, adapted.config.dim)
        torch.testing.assert_close(head(hidden), F.linear(hidden, adapted.output_weight))
        raise RuntimeError("stop")
    assert "forward" not in vars(layer)


def test_log_probabilities_with_adapters(adapted):
    asked = prompts(4)
    for prompt, reply in zip(
        asked, complete(adapted, asked, SamplingParams(temperature=1.0), (), slots=2), strict=True
    ):
        whole = fresh_logits(adapted, [*prompt, *reply.ids]).log_softmax(-1)
        expected = [float(whole[len(prompt) - 1 + i, token]) for i, token in enumerate(reply.ids)]
        assert reply.logp == pytest.approx(expected, abs=1e-4)


def test_log_probabilities_under_autocast(model):
    asked = prompts(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = complete(model, asked, SamplingParams(temperature=1.0, max_new_tokens=12), (), slots=2)
        for prompt, reply in zip(asked, found, strict=True):
            whole = fresh_logits(model, [*prompt, *reply.ids]).float().log_softmax(-1)
            expected = [float(whole[len(prompt) - 1 + i, token]) for i, token in enumerate(reply.ids)]
            assert reply.logp == pytest.approx(expected, abs=0.03)


fbgemm = pytest.mark.skipif(
    "fbgemm" not in torch.backends.quantized.supported_engines, reason="torch has no fbgemm here"
)


@fbgemm
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 3, 40])
def test_integers_give_the_product_with_the_int8_weights_alone_and_in_company(rows: int, bias: bool) -> None:
    """Inputs of very different sizes in one batch; what is no number stays in its row."""
    draw = torch.Generator().manual_seed(0)
    layer = Int8Linear(48, 32, bias=bias).float()
    small, scale = quantize(torch.randn(32, 48, generator=draw))
    more = {"bias": torch.randn(32, generator=draw)} if bias else {}
    layer.load_state_dict({"weight": small, "weight_scale": scale, **more})
    x = torch.randn(rows, 48, generator=draw) * torch.logspace(-4, 4, rows)[:, None]
    with packed_layer(layer):
        found, alone = layer(x), torch.cat([layer(row[None]) for row in x])
        broken = torch.cat((x, torch.full((1, 48), torch.nan), torch.full((1, 48), torch.inf)))
        beside = layer(broken)
    added = more.get("bias", torch.zeros(32)).double()
    exact = x.double() @ (small.double() * scale.double()).T
    bound = x.double().abs().amax(1, keepdim=True) * 2**-14 * (small.double() * scale.double()).abs().sum(1)
    assert ((found.double() - added - exact).abs() <= 1.01 * bound + 1e-5 * (exact.abs() + added.abs())).all()
    assert torch.equal(found, alone)
    assert torch.equal(beside[:rows], found)
    assert not beside[rows:].isfinite().any()


@contextmanager
def packed_layer(layer: Int8Linear) -> Iterator[None]:
    model = random_model()
    model.model.layers[0].mlp.up_proj = layer
    with packed(model):
        assert "forward" in vars(layer)
        yield


@fbgemm
def test_a_model_in_int8_says_nearly_what_it_says_and_the_same_in_company() -> None:
    model = random_model(context=128, dim=64, head_dim=16, hidden=128)
    tokens = torch.randint(0, 320, (3, 30), generator=torch.Generator().manual_seed(0))

    def logits(head: Any, ids: torch.Tensor) -> torch.Tensor:
        hidden = model.hidden(ids, torch.arange(ids.shape[1]).expand(ids.shape), None)
        return torch.cat([head(row) for row in hidden])

    with torch.inference_mode():
        exact = logits(lambda hidden: hidden @ model.output_weight.T, tokens)
        with packed(model, int8=True) as head:
            small, alone = logits(head, tokens), logits(head, tokens[1:2])
    assert 0 < (small - exact).abs().mean() < 0.05 * exact.std()
    assert torch.allclose(small[30:60], alone, atol=1e-4)
