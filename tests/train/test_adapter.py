"""Adapters in a run: every phase trains them, checkpoints hold nothing else, and going on equals not stopping."""

from __future__ import annotations

import pytest
import tiny
import torch
from safetensors.torch import load_file

from trivium.model import lora
from trivium.recipe.network import Adapter
from trivium.train.optim import OPTIMIZERS, build


def adapted(quantize: str):
    network = tiny.model(tiny.chat_tokenizer().vocab_size)
    adapter = Adapter(rank=2, quantize=quantize)
    lora.attach(network, adapter, torch.Generator().manual_seed(1))
    return network


@pytest.mark.parametrize(("kind", "quantize"), [("sft", "none"), ("dpo", "none"), ("sft", "int8")])
def test_only_the_adapter_learns_and_is_kept(tmp_path, kind, quantize):
    start = {name: t.clone() for name, t in adapted(quantize).state_dict().items()}
    weights, metrics = tiny.saving(kind, tmp_path, network=adapted(quantize))
    for name, tensor in weights.items():
        assert torch.equal(tensor, start[name]) == ("lora" not in name), name
    assert metrics["after"]["loss"] < metrics["before"]["loss"]
    kept = load_file(max((tmp_path / "work" / "checkpoints").glob("step-*")) / "model.safetensors")
    assert kept.keys() == {name for name in weights if "lora" in name}


def test_going_on_equals_not_stopping(tmp_path):
    straight, _ = tiny.saving("sft", tmp_path / "a", network=adapted("none"))

    class Killed(Exception):
        pass

    def kill(event):
        if event["event"] == "step" and event["step"] == 6:
            raise Killed

    with pytest.raises(Killed):
        tiny.saving("sft", tmp_path / "b", network=adapted("none"), emit=kill)
    again, _ = tiny.saving("sft", tmp_path / "b", network=adapted("none"))
    assert tiny.same(straight, again)


def test_dpo_starts_from_its_own_base(tmp_path):
    """With B = 0 the policy is the reference, which is the base with its adapter switched off: ln 2 for every pair."""
    _, metrics = tiny.phase("dpo", tmp_path, network=adapted("none"))
    assert metrics["before"]["loss"] == pytest.approx(0.6931, abs=1e-3)


@pytest.mark.parametrize("kind", [kind for kind in tiny.KINDS if kind not in ("pretrain", "reward")])
def test_muon_trains_an_adapter_in_every_phase(tmp_path, kind):
    """All that is trained lies inside the blocks: AdamW is left without a parameter, and the run ends all the same."""
    network = adapted("none")
    start = {name: t.clone() for name, t in network.state_dict().items()}
    weights, _ = tiny.phase(kind, tmp_path, network=network, optimizer="muon", steps=4)
    # PPO's policy and critic both begin as this model
    inside = {name: name[name.index("model.layers.") :] for name in weights if "model.layers." in name}
    moved = {name for name, origin in inside.items() if not torch.equal(weights[name], start[origin])}
    assert moved == {name for name in inside if "lora" in name}


def test_muon_over_an_adapter_goes_on_as_if_it_had_not_stopped(tmp_path):
    straight, _ = tiny.phase("sft", tmp_path / "a", network=adapted("none"), optimizer="muon")

    def kill(event):
        if event["event"] == "step" and event["step"] == 6:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        tiny.phase("sft", tmp_path / "b", network=adapted("none"), optimizer="muon", emit=kill)
    again, _ = tiny.phase("sft", tmp_path / "b", network=adapted("none"), optimizer="muon")
    assert tiny.same(straight, again)


@pytest.mark.parametrize("trained", ["layers", "embed_tokens", "norm.weight"])
def test_an_optimizer_split_may_leave_a_group_empty(trained):
    """Whatever part of a model is trained, each optimizer takes all of it, once."""
    network = tiny.model(40)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(trained in name)
    for optimizer in OPTIMIZERS:
        groups = build(network, tiny.config("sft", optimizer=optimizer)).param_groups
        held = [id(p) for group in groups for p in group["params"]]
        assert sorted(held) == sorted(id(p) for p in network.parameters() if p.requires_grad)
