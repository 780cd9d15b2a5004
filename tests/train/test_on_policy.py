"""The first step on a set of replies is on-policy: what is scored then is what learns now."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_models import random_model

from trivium.generate.sampling import SamplingParams, distribution
from trivium.model import lora
from trivium.model.dropout import KeyedDropout
from trivium.objectives import Grpo
from trivium.recipe.network import Adapter


def moved(adapter: dict[str, float]):
    """A model whose adapter has learnt something."""
    network = random_model()
    lora.attach(network, Adapter.model_validate(adapter), torch.Generator().manual_seed(1))
    for name, parameter in network.named_parameters():
        if name.endswith("lora_B"):
            torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(2))
    return network


def rows(count: int = 4, length: int = 24) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 320, (count, length), generator=draw)
    ends = torch.tensor([length - 7 * (n % 3) for n in range(count)])
    there = torch.arange(length) < ends[:, None]
    return {
        "tokens": tokens,
        "targets": tokens.roll(-1, 1),
        "loss_mask": (there & (torch.arange(length) > 3)).float(),
        "positions": torch.arange(length).expand(count, -1).contiguous(),
        "doc_id": torch.where(there, 0, -1),
        "dropout_key": torch.randint(0, 2**31, (count, length), generator=draw),
    }


def test_two_passes_over_the_same_tokens_drop_the_same():
    network, batch = moved({"rank": 2, "dropout": 0.5}), rows()
    with torch.no_grad():
        scored = network.eval()(batch, {"logp"}).logp
    learnt = network.train()(batch, {"logp"}).logp.detach()
    assert torch.allclose(scored, learnt, atol=1e-6)
    order = torch.tensor([2, 0, 3])  # other rows beside it, another place in the batch
    part = network({name: value[order] for name, value in batch.items()}, {"logp"}).logp.detach()
    assert torch.allclose(part, scored[order], atol=1e-6)
    other = network({**batch, "dropout_key": batch["dropout_key"] + 1}, {"logp"}).logp.detach()
    without = network.eval()({n: v for n, v in batch.items() if n != "dropout_key"}, {"logp"}).logp.detach()
    on = batch["loss_mask"] > 0
    assert not torch.allclose(other[on], scored[on], atol=1e-3)
    assert not torch.allclose(without[on], scored[on], atol=1e-3)


@given(st.floats(0.05, 0.9), st.integers(0, 5))
def test_keyed_dropout_drops_its_share_and_keeps_the_mean(share, layer):
    dropout = KeyedDropout()
    dropout.keys = torch.randint(0, 2**31, (4, 50), generator=torch.Generator().manual_seed(layer))
    out = dropout(torch.ones(4, 50, 200), share, layer)
    kept = (out > 0).double()
    error = 6 * math.sqrt(share * (1 - share) / kept.numel())
    assert kept.mean() == pytest.approx(1 - share, abs=error)
    assert torch.allclose(out[out > 0], torch.tensor(1 / (1 - share)))
    again = dropout(torch.ones(4, 50, 200), share, layer + 1)
    both = ((out > 0) & (again > 0)).double().mean()  # layers drop independently
    assert both == pytest.approx((1 - share) ** 2, abs=0.02)


@pytest.mark.parametrize("kind", ["grpo", "ppo"])
@pytest.mark.parametrize("changes", [{}, {"temperature": 0.6}, {"temperature": 0.3, "top_p": 0.9}])
def test_the_ratio_is_one_on_policy_with_dropout_and_at_any_temperature(tmp_path, kind, changes):
    """One update a set: every step is on-policy, although dropout is on and the adapter has moved."""
    events: list[dict] = []
    adapter = {"rank": 2, "dropout": 0.2}
    tiny.phase(kind, tmp_path, emit=events.append, adapter=adapter, minibatches=1, lr=3e-2, **changes)
    steps = [event for event in events if event["event"] == "step"]
    assert len(steps) == tiny.STEPS
    for step in steps:
        assert step["clipped"] == 0 and abs(step["step_kl"]) < 1e-6
    sets = [event for event in events if event["event"] == "rollouts"]
    assert max(event["sampler_gap"] for event in sets) > 1e-3  # the masks do drop


@pytest.mark.parametrize("temperature", [0.3, 0.6, 1.0])
def test_the_sampler_and_the_trainer_agree_at_every_temperature(tmp_path, temperature):
    events: list[dict] = []
    tiny.phase("grpo", tmp_path, emit=events.append, temperature=temperature, steps=2)
    assert all(event["sampler_gap"] < 1e-5 for event in events if event["event"] == "rollouts")


@pytest.mark.parametrize("kind", ["dpo", "kto"])
def test_a_preference_phase_with_dropout_starts_from_its_reference(tmp_path, kind):
    """The adapter says nothing yet, and the reference has none: whatever is dropped, the policy is the reference."""
    events: list[dict] = []
    adapter = {"rank": 2, "dropout": 0.2}
    tiny.phase(kind, tmp_path, emit=events.append, adapter=adapter, steps=1)
    [step] = [event for event in events if event["event"] == "step"]
    assert step["loss"] == pytest.approx(math.log(2) if kind == "dpo" else 0.5, abs=1e-5)


LENGTH, VOCABULARY, STOP = 3, 5, 0


def replies() -> list[tuple[int, ...]]:
    """Every reply over five tokens: up to three, or shorter if it says the stop."""
    found = []
    for length in range(1, LENGTH + 1):
        for reply in product(range(VOCABULARY), repeat=length):
            if STOP not in reply[:-1] and (reply[-1] == STOP or length == LENGTH):
                found.append(reply)
    return found


def worth(reply: tuple[int, ...]) -> float:
    return float(sum(token * (place + 1) for place, token in enumerate(reply)) % 4)


@pytest.mark.parametrize("cap", [None, 0.5])
@pytest.mark.parametrize("temperature", [0.3, 0.6, 1.0])
def test_the_policy_gradient_is_exact_at_the_sampling_temperature(temperature, cap):
    """All replies, each weighted by how often it is drawn: the objective's gradient is that of the expected reward."""
    network = random_model(VOCABULARY, context=8, seed=3).double()
    network.config = replace(network.config, logit_softcap=cap)
    prompt, sampling = [3, 1], SamplingParams(temperature=temperature, max_new_tokens=LENGTH)
    told = replies()
    length = len(prompt) + LENGTH
    tokens, mask = torch.zeros(len(told), length, dtype=torch.int64), torch.zeros(len(told), length)
    for row, reply in enumerate(told):
        tokens[row, : len(prompt) + len(reply)] = torch.tensor([*prompt, *reply])
        mask[row, len(prompt) - 1 : len(prompt) + len(reply) - 1] = 1
    rewards = torch.tensor([worth(reply) for reply in told])

    def log_probability() -> torch.Tensor:
        logits = network(
            {"tokens": tokens, "positions": torch.arange(length).expand(len(told), -1)}, {"logits"}
        ).logits
        each = (
            (logits.double() / temperature).log_softmax(-1).gather(-1, tokens.roll(-1, 1)[..., None])[..., 0]
        )
        return (each * mask).sum(-1)

    chance = log_probability().exp()
    assert chance.sum().item() == pytest.approx(1, abs=1e-6)
    drawn = distribution(
        network({"tokens": torch.tensor([prompt]), "positions": torch.arange(2)[None]}, {"logits"}).logits[
            :, -1
        ],
        sampling,
    )
    first = torch.stack([chance[[r[0] == token for r in told]].sum() for token in range(VOCABULARY)])
    assert torch.allclose(
        first.float(), drawn[0], atol=1e-5
    )  # what is enumerated is what the sampler draws from
    exact = torch.autograd.grad((chance * rewards).sum(), list(network.parameters()))

    batch = {
        "tokens": tokens, "targets": tokens.roll(-1, 1), "loss_mask": mask, "doc_id": torch.zeros_like(tokens),
        "positions": torch.arange(length).expand(len(told), -1).contiguous(),
    }  # fmt: skip
    batch["temperature"] = torch.full((len(told),), temperature)
    objective = Grpo("dr_grpo", LENGTH)
    out = network(batch, objective.wants)
    weight = (chance.detach() * rewards * LENGTH).float()  # dr_grpo divides by the longest length
    batch |= {
        "old_logp": out.logp.detach(), "advantage": weight[:, None] * mask, "correction": torch.ones_like(mask),
    }  # fmt: skip
    ours = torch.autograd.grad(-objective(out, batch).total, list(network.parameters()))
    ours, exact = (torch.cat([g.flatten() for g in gradient]) for gradient in (ours, exact))
    assert float(ours @ exact / (ours.norm() * exact.norm())) == pytest.approx(1, abs=1e-6)
    assert float(ours.norm() / exact.norm()) == pytest.approx(1, abs=1e-5)
