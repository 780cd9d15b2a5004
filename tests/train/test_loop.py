"""The loop: losses fall, batches may be cut as one likes, and a broken number never reaches the weights."""

from __future__ import annotations

import math

import pytest
import tiny
import torch
from tiny import KINDS, STEPS, same

from trivium.batches.context import Phase
from trivium.batches.offline import chat
from trivium.errors import ArtifactError, DataError, TrainingError
from trivium.model import heads
from trivium.objectives import NextToken
from trivium.phases import PHASES
from trivium.recipe.training import SftStage
from trivium.train.optim import adamw, build
from trivium.train.schedule import factor
from trivium.types import Loss


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in tiny.ONLINE])
def test_the_loss_falls_on_what_is_trained_and_on_what_is_held_out(kind, tmp_path):
    _, metrics = tiny.phase(kind, tmp_path, steps=40)
    curve = [loss for _, loss in metrics["curve"]]
    assert len(curve) == 40 and sum(curve[-5:]) / 5 < 0.9 * curve[0]
    if kind not in ("dpo", "kto", "reward"):  # a dozen pairs teach nothing about others
        assert metrics["after"]["loss"] < metrics["before"]["loss"]
    if kind == "dpo":
        assert curve[0] == pytest.approx(math.log(2), abs=1e-4)
        assert metrics["before"]["loss"] == pytest.approx(math.log(2), abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("micro", [1, 2])
def test_gradient_accumulation_equals_one_big_batch(kind, micro, tmp_path):
    events, expected = [], []
    small, _ = tiny.phase(kind, tmp_path / "small", emit=events.append, micro_batch=micro, steps=3)
    big, _ = tiny.phase(kind, tmp_path / "big", emit=expected.append, steps=3)
    assert_steps_agree(events, expected)
    assert_weights_agree(small, big)


def assert_steps_agree(ours, theirs):
    """Loss, metrics and the gradient's norm of every step, within 1e-6 (relative)."""
    ours, theirs = ([e for e in events if e["event"] == "step"] for events in (ours, theirs))
    assert len(ours) == len(theirs) > 0
    for mine, other in zip(ours, theirs, strict=True):
        for name in ("loss", "grad_norm", "lr"):
            assert mine[name] == pytest.approx(other[name], rel=2e-5), name


def assert_weights_agree(ours, theirs):
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-4, atol=1e-5, msg=name)


class Poisoned(NextToken):
    """Not a number from the given call on (calls that are not validation)."""

    def __init__(self, step):
        super().__init__()
        self.left = step

    def __call__(self, out, batch):
        loss = super().__call__(out, batch)
        if not loss.total.requires_grad:
            return loss
        self.left -= 1
        return loss if self.left >= 0 else Loss(loss.total * math.nan, loss.metrics)


def test_a_loss_that_is_no_number_stops_before_the_weights(tmp_path, monkeypatch):
    monkeypatch.setitem(PHASES, "sft", Phase(SftStage, chat, lambda config: Poisoned(4)))
    network, after_step = tiny.model(tiny.chat_tokenizer().vocab_size), {}

    def emit(event):
        if event["event"] == "step":
            after_step[event["step"]] = {n: t.clone() for n, t in network.state_dict().items()}

    with pytest.raises(TrainingError, match=r"step 4: loss nan, .*the weights were not touched") as caught:
        tiny.phase("sft", tmp_path, network=network, emit=emit)
    assert "lower lr" in caught.value.fix
    assert max(after_step) == 4
    assert same(network.state_dict(), after_step[4])


def test_a_gradient_that_is_no_number_stops_too(tmp_path, monkeypatch):
    class Infinite(NextToken):
        def __call__(self, out, batch):
            loss = super().__call__(out, batch)
            return Loss(loss.total + (out.logp * 0).sqrt().sum() * 0, loss.metrics)

    monkeypatch.setitem(PHASES, "sft", Phase(SftStage, chat, lambda config: Infinite()))
    with pytest.raises(TrainingError, match="gradient norm nan"):
        tiny.phase("sft", tmp_path)


def test_steps_follow_the_duration_asked_for():
    assert tiny.config("sft", steps=7).length(10, 32) == (7, 28)
    epochs = {"steps": None, "epochs": 2.0}
    assert tiny.config("sft", **epochs).length(10, 32) == (5, 20)
    assert tiny.config("sft", batch=32, steps=None, epochs=1).length(47, 32) == (2, 47)
    assert tiny.config("sft", batch=32, steps=None, epochs=0.3).length(47, 32) == (1, 15)
    assert tiny.config("sft", batch=10, steps=None, epochs=1.1).length(100, 32) == (11, 110)  # not 12
    # replies are made in whole sets: 13 prompts, 4 replies to each, sets of two batches gone through twice
    assert tiny.config("grpo", updates=2, **epochs).length(13, 32) == (52, 208)
    assert tiny.config("ppo", **epochs).length(13, 32) == (8, 32)
    tokens = {"steps": None, "tokens": 1024}
    assert tiny.config("sft", **tokens).length(10, 32) == (8, 32)
    assert tiny.config("dpo", **tokens).length(10, 64) == (4, 16)
    assert tiny.config("sft", steps=None, tokens=1).length(10, 32) == (1, 4)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in tiny.ONLINE])
def test_the_last_step_of_an_epoch_weighs_what_it_holds(kind, tmp_path):
    """Cut into micro-batches or not, with the padded rows or without them, it is the same step."""
    epoch = {"steps": None, "epochs": 1.0, "lr": 1e-3}
    if kind == "distill":
        epoch["on_policy"] = 0
    whole, metrics = tiny.phase(kind, tmp_path / "whole", **epoch)
    cut, parts = tiny.phase(kind, tmp_path / "cut", **epoch, micro_batch=1)
    items = metrics["data"].get("items") or -(-metrics["data"]["tokens_available"] // 32)
    assert metrics["steps"] == -(-items // 4)
    assert [loss for _, loss in metrics["curve"]] == pytest.approx(
        [loss for _, loss in parts["curve"]], rel=1e-5
    )
    assert max(float((whole[name] - cut[name]).abs().max()) for name in whole) < 2e-5


def test_more_tokens_than_the_data_has(tmp_path):
    """Refused before the first step unless they are meant, and then told."""
    held = tiny.phase("pretrain", tmp_path / "held", steps=1)[1]["data"]["tokens_available"]
    events = []
    tiny.phase("pretrain", tmp_path / "some", steps=None, tokens=2 * held, max_epochs=4, emit=events.append)
    assert any(
        e["event"] == "warning" and "is read 1.97 times (`epochs: 1.97`" in e["message"] for e in events
    )
    with pytest.raises(DataError, match=r"would be read 1\.97 times"):
        tiny.phase("pretrain", tmp_path / "more", steps=None, tokens=2 * held)
    many = {"steps": None, "tokens": 6 * held}
    with pytest.raises(DataError, match=r"would be read 5\.91 times") as caught:
        tiny.phase("pretrain", tmp_path / "many", **many)
    assert "max_epochs: " in caught.value.fix and not (tmp_path / "many" / "checkpoints").exists()
    assert tiny.phase("pretrain", tmp_path / "meant", max_epochs=8, **many)[1]["tokens"] >= 5 * held


AGAIN = {*tiny.ONLINE, "unlearn"}
"""Kinds in which a small set may come again within a batch: prompts, and the one document that is to be forgotten."""


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in AGAIN])
def test_data_smaller_than_a_batch_is_a_data_error(kind, tmp_path):
    with pytest.raises(DataError, match="less than one batch"):
        tiny.phase(kind, tmp_path, batch=1000)


def test_recomputing_blocks_changes_nothing_but_memory(tmp_path):
    plain, _ = tiny.phase("sft", tmp_path / "plain", steps=3)
    assert same(tiny.phase("sft", tmp_path / "again", steps=3, recompute="blocks")[0], plain)


def test_z_loss_keeps_the_denominator_near_one(tmp_path):
    ends = []
    for z_loss in (1e-9, 1.0):
        events = []
        tiny.phase("pretrain", tmp_path / str(z_loss), steps=60, lr=2e-2, z_loss=z_loss, emit=events.append)
        ends.append([e["log_z_squared"] for e in events if e["event"] == "step"][-1])
    assert ends[1] < ends[0] / 2


@pytest.mark.parametrize("chunk", [2**25, 700])
def test_log_probs_and_their_denominator_are_those_of_the_full_logits(chunk, monkeypatch):
    monkeypatch.setattr(heads, "CHUNK", chunk)
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(2, 5, 8, generator=generator, requires_grad=True)
    weight = torch.randn(300, 8, generator=generator, requires_grad=True)
    targets = torch.randint(0, 300, (2, 5), generator=generator)
    logp, log_z = heads.log_probs_and_z(hidden, weight, targets)
    grads = torch.autograd.grad((logp - 0.1 * log_z**2).sum(), (hidden, weight))
    logits = hidden @ weight.T
    wanted = logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0]
    expected = torch.autograd.grad((wanted - 0.1 * logits.logsumexp(-1) ** 2).sum(), (hidden, weight))
    torch.testing.assert_close(logp, wanted)
    torch.testing.assert_close(heads.log_probs(hidden, weight, targets), wanted)
    for ours, theirs in zip(grads, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_what_is_held_out_is_looked_at_as_often_as_asked_for(tmp_path):
    events = []
    weights, metrics = tiny.phase("sft", tmp_path / "looked", validate_every=4, emit=events.append)
    looks = [event for event in events if event["event"] == "validation"]
    assert [event.get("step") for event in looks] == [None, 4, 8, None]
    losses = [event["loss"] for event in looks]
    assert losses == sorted(losses, reverse=True) and losses[-1] == metrics["after"]["loss"]
    assert same(weights, tiny.phase("sft", tmp_path / "plain")[0])


def test_a_tokenizer_with_ids_that_the_model_has_not_is_refused(tmp_path):
    with pytest.raises(
        ArtifactError, match="the tokenizer has 300 ids and the checkpoint's embeddings hold 200"
    ):
        tiny.phase("sft", tmp_path, network=tiny.model(200))


def test_what_the_metrics_say(tmp_path):
    events = []
    _, metrics = tiny.phase("dpo", tmp_path, emit=events.append)
    row = metrics["data"][
        "row_tokens"
    ]  # of two rows in full; the prompt's second copy and padding do not count
    assert metrics["steps"] == STEPS and 0 < metrics["tokens"] < STEPS * 4 * 2 * row
    assert (
        metrics["data"]["items"] == len(tiny.FACTS) - 3 - 5
    )  # three are held out, five have a reply that is cut
    assert [step for step, _ in metrics["curve"]] == list(range(1, STEPS + 1))
    assert (
        set(metrics["before"]) == set(metrics["after"]) == {"loss", "margin", "accuracy"}
    )  # one held-out pair is whole: one source
    (said,) = [event for event in events if event["event"] == "phase"]
    assert said["steps"] == STEPS and said["items"] == metrics["data"]["items"]
    last = [event for event in events if event["event"] == "step"][-1]
    assert last["eta_s"] == 0 and last["step"] == STEPS


def test_lines_come_as_often_as_asked_and_always_for_the_first_and_last_step(tmp_path):
    _, metrics = tiny.phase("sft", tmp_path, log_every=4)
    assert [step for step, _ in metrics["curve"]] == [1, 4, 8, 10]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"schedule": "constant", "warmup": 0.0}, [1] * 10),
        ({"schedule": "constant", "warmup": 0.4}, [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1]),
        ({"schedule": "linear", "warmup": 0.2, "lr_end": 0.0}, [0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]),
        (
            {"schedule": "cosine", "warmup": 0.0, "lr_end": 0.0},
            [0.5 * (1 + math.cos(math.pi * step / 10)) for step in range(10)],
        ),
        ({"schedule": "wsd", "warmup": 0.2, "decay": 0.4, "lr_end": 0.0}, [0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25]),
        ({"schedule": "wsd", "warmup": 0.0, "decay": 0.0}, [1] * 10),
    ],
)  # fmt: skip
def test_schedules(changes, expected):
    config = tiny.config("sft", **changes)
    assert [factor(config, step, 10) for step in range(10)] == pytest.approx(expected)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd", "constant"])
@pytest.mark.parametrize("warmup", [0.0, 0.05, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 7, 100])
def test_schedules_rise_and_then_never_rise_again_and_stay_in_bounds(schedule, warmup, steps):
    config = tiny.config("sft", schedule=schedule, warmup=warmup, lr_end=0.1)
    values = [factor(config, step, steps) for step in range(steps)]
    assert all(0 < value <= 1 for value in values)
    top = round(warmup * steps)
    assert values[:top] == sorted(values[:top])
    assert values[top:] == sorted(values[top:], reverse=True)
    assert all(value >= 0.1 for value in values[top:])


def test_muon_takes_the_matrices_inside_the_blocks_and_adamw_the_rest():
    network = tiny.model(300)
    optimizer = build(network, tiny.config("sft", optimizer="muon", lr=0.1, muon_lr=0.3, weight_decay=0.0))
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()
    peaks = {id(p): group["peak"] for group in optimizer.param_groups for p in group["params"]}
    assert len(peaks) == len(before) == len(optimizer.state)
    for name, parameter in network.named_parameters():
        change = parameter.detach() - before[name]
        if parameter.dim() == 2 and "layers" in name:  # as many singular values alike as there are
            values = torch.linalg.svdvals(change.float()) / (0.3 * 0.2 * max(change.shape) ** 0.5)
            assert peaks[id(parameter)] == 0.3 and values.min() > 0.5 and values.max() < 1.5, name
        else:  # the first step of Adam is the sign of the gradient
            assert peaks[id(parameter)] == 0.1
            torch.testing.assert_close(change, -0.1 * parameter.grad.sign(), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_embeddings_have_a_rate_of_their_own_and_the_decay_of_all(optimizer):
    network = tiny.model(300)
    config = tiny.config("pretrain", optimizer=optimizer, lr=0.01, embed_lr=0.2, weight_decay=0.5)
    groups = build(network, config).param_groups
    found = {id(p): (group["peak"], group["weight_decay"]) for group in groups for p in group["params"]}
    for name, parameter in network.named_parameters():
        rate = 0.2 if name == "model.embed_tokens.weight" else 0.01
        decay = 0.005 if parameter.dim() == 2 else 0.0
        assert found[id(parameter)] == pytest.approx((rate, decay / rate)), name


def test_decay_touches_matrices_only():
    network = tiny.model(300)
    optimizer = adamw(network, tiny.config("sft", lr=0.1, weight_decay=0.5))
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert {parameter.dim() for parameter in network.parameters()} == {1, 2}
    for name, parameter in network.named_parameters():
        share = 0.95 if parameter.dim() == 2 else 1.0
        torch.testing.assert_close(parameter.detach(), share * before[name], msg=name)
