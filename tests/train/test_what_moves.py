"""Every tensor that a phase says it trains moves, in every phase, with an adapter and without, from int8 too."""

from __future__ import annotations

import pytest
import tiny
import torch

from trivium.model import hf, lora
from trivium.recipe.network import Adapter


def moved(kind, folder, network, **changes):
    parameters = {n for n, p in network.named_parameters() if p.requires_grad}
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    weights, _ = tiny.phase(kind, folder, network=network, steps=2, **changes)
    for name in ("", "trunk.", "policy."):
        if any(key.startswith(name + "model.") for key in weights):
            prefix = name
    after = {key.removeprefix(prefix): tensor for key, tensor in weights.items()}
    return parameters, {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_every_tensor_that_is_trained_moves(kind, tmp_path):
    network = tiny.model(tiny.chat_tokenizer().vocab_size)
    parameters, changed = moved(kind, tmp_path, network)
    spared = {"lm_head.weight"} if kind == "reward" else set()  # a reward model says no words
    assert changed == parameters - spared == set(network.state_dict()) - spared


def test_an_int8_checkpoint_is_trained_whole(tmp_path):
    network = tiny.model(tiny.chat_tokenizer().vocab_size)
    hf.save(hf.quantized(network), tmp_path / "small", eos=1, pad=0)
    start = hf.load(tmp_path / "small", trainable=True)
    parameters, changed = moved("sft", tmp_path, start)
    assert changed == parameters == set(network.state_dict())


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("kind", [kind for kind in tiny.KINDS if kind != "reward"])
def test_every_tensor_of_an_adapter_moves(kind, dora, tmp_path):
    """On the layers, on what is read and on what is said; nothing else does."""
    network = tiny.model(tiny.chat_tokenizer().vocab_size)
    adapter = {
        "rank": 2,
        "dora": dora,
        "rslora": True,
        "targets": ["q_proj", "up_proj", "embed_tokens", "lm_head"],
    }
    lora.attach(network, Adapter.model_validate(adapter), torch.Generator().manual_seed(1))
    parameters, changed = moved(kind, tmp_path, network, adapter=adapter)
    assert changed == parameters == {name for name in network.state_dict() if "lora" in name}


def test_an_adapter_on_an_int8_checkpoint(tmp_path):
    hf.save(hf.quantized(tiny.model(tiny.chat_tokenizer().vocab_size)), tmp_path / "small", eos=1, pad=0)
    start = hf.load(tmp_path / "small", trainable=True)
    lora.attach(start, Adapter(rank=2), torch.Generator().manual_seed(1))
    parameters, changed = moved("sft", tmp_path, start)
    assert changed == parameters == {name for name in start.state_dict() if "lora" in name}
