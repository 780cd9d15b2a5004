"""Packed weights are the model's own, for as long as the block lasts; bf16 and adapters included."""

from __future__ import annotations

import copy
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
from trivium.model.int8 import quantize, round_layers
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


def test_int8_layers_are_what_their_integers_stand_for_and_the_head_is_rounded() -> None:
    model = random_model(context=128, dim=64, head_dim=16, hidden=128)
    tokens = torch.randint(0, 320, (1, 30), generator=torch.Generator().manual_seed(0))

    def logits(head: Any) -> torch.Tensor:
        return torch.as_tensor(head(model.hidden(tokens, torch.arange(30)[None], None)[0]))

    with torch.inference_mode():
        exact = logits(lambda hidden: hidden @ model.output_weight.T)
        round_layers(model)
        weight, scale = quantize(model.output_weight.detach())
        rounded = logits(lambda hidden: hidden @ (weight * scale.float()).T)
        with packed(model, int8=True) as head:
            torch.testing.assert_close(logits(head), rounded, atol=1e-4, rtol=1e-4)
    assert 0 < (rounded - exact).abs().mean() < 0.05 * exact.std()
