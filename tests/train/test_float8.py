"""float8: what is converted, how near it is to bf16 (emulated: no GPU is asked for), and who is told that it cannot be."""

from __future__ import annotations

import functools

import pytest
import tiny
import torch

from trivium.errors import RecipeError
from trivium.model.config import ModelConfig
from trivium.model.transformer import Transformer
from trivium.recipe.network import ModelShape
from trivium.train import float8


@pytest.fixture(scope="module", autouse=True)
def installed():
    pytest.importorskip("torchao")


def network(**changes):
    shape = {"dim": 64, "layers": 2, "heads": 4, "context": 32, **changes}
    vocabulary = tiny.chat_tokenizer().vocab_size
    made = Transformer(ModelConfig.from_shape(ModelShape.model_validate(shape), vocabulary))
    made.initialise(torch.Generator().manual_seed(0))
    return made


def converted(model):
    return {name for name, layer in model.named_modules() if type(layer).__name__ == "Float8Linear"}


def test_the_matrices_of_the_blocks_and_no_others():
    model = network()
    before = model.state_dict(keep_vars=True)
    assert float8.convert(model, emulate=True) == 2 * 7
    assert all(name.startswith("model.layers.") for name in converted(model))
    after = model.state_dict(keep_vars=True)
    assert before.keys() == after.keys() and all(before[name] is after[name] for name in before)


def test_experts_and_their_router_are_left_alone():
    model = network(moe={"experts": 4, "shared": 1, "dense": 0})
    float8.convert(model, emulate=True)
    assert {name.split(".")[4] for name in converted(model) if ".mlp." in name} == {"shared_experts"}


def test_sides_that_do_not_fit_stay_as_they_are():
    model = network(hidden=72)
    float8.convert(model, emulate=True)
    assert {name.split(".")[3] for name in converted(model)} == {"self_attn"}
    with pytest.raises(RecipeError, match="multiples of 16"):
        float8.convert(network(dim=24, heads=2, hidden=40), emulate=True)


@pytest.mark.parametrize("kind", ["pretrain", "dpo"])
def test_the_losses_are_those_of_bf16_within_the_rounding(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(float8, "check", lambda device: None)
    monkeypatch.setattr(float8, "convert", functools.partial(float8.convert, emulate=True))
    found, samples = {}, {"every": "20 steps", "tokens": 4}
    for precision in ("bf16", "float8"):
        events, model = [], network()
        changes = {"precision": precision, "steps": 20, "samples": samples}
        _, metrics = tiny.phase(kind, tmp_path / precision, network=model, emit=events.append, **changes)
        assert metrics["precision"] == precision
        assert bool(converted(model)) == (precision == "float8")
        assert any(event["event"] == "samples" for event in events)
        found[precision] = [loss for _, loss in metrics["curve"]]
    assert found["float8"] != found["bf16"]
    assert found["float8"] == pytest.approx(found["bf16"], rel=0.04)
    assert found["float8"][-1] < 0.95 * found["float8"][0]


def test_without_such_a_gpu_it_is_said_before_the_first_step(tmp_path, monkeypatch):
    events = []
    with pytest.raises(RecipeError, match=r"needs a GPU of the Hopper generation or later") as caught:
        tiny.phase("sft", tmp_path, emit=events.append, precision="float8")
    assert "bf16" in caught.value.fix and not any(event["event"] in ("phase", "step") for event in events)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "an older GPU")
    with pytest.raises(RecipeError, match=r"an older GPU cannot"):
        float8.check("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    float8.check("cuda")


def test_rows_that_cannot_be_multiplied_are_refused():
    float8.check_rows(4096)
    with pytest.raises(RecipeError, match="a forward pass has 100 tokens"):
        float8.check_rows(100)
