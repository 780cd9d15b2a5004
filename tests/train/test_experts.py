"""A mixture of experts in a run: the balance is an event, its bias is kept, and going on equals not stopping."""

from __future__ import annotations

import pytest
import tiny
import torch

from trivium.model.config import ModelConfig
from trivium.model.transformer import Transformer
from trivium.recipe.network import ModelShape


def network() -> Transformer:
    shape = ModelShape.model_validate(
        dict(dim=32, layers=2, heads=4, kv_heads=2, hidden=64, context=32, moe=dict(experts=4, balance=0.01))
    )
    made = Transformer(ModelConfig.from_shape(shape, tiny.chat_tokenizer().vocab_size))
    made.initialise(torch.Generator().manual_seed(0))
    return made


def test_load_is_reported_and_a_resumed_run_is_the_same(tmp_path):
    events = []
    straight, metrics = tiny.phase("pretrain", tmp_path / "a", network=network(), emit=events.append)
    loads = [event["expert_load"] for event in events if event["event"] == "step"]
    assert len(loads) == tiny.STEPS
    assert all(load >= 1 for load in loads)
    assert metrics["after"]["loss"] < metrics["before"]["loss"]
    biases = [tensor for name, tensor in straight.items() if "correction_bias" in name]
    assert len(biases) == 2
    assert all(bias.abs().max() > 0 for bias in biases)

    class Killed(Exception):
        pass

    def kill(event):
        if event["event"] == "step" and event["step"] == 6:
            raise Killed

    with pytest.raises(Killed):
        tiny.saving("pretrain", tmp_path / "b", network=network(), emit=kill)
    again, _ = tiny.saving("pretrain", tmp_path / "b", network=network())
    assert tiny.same(straight, again)
