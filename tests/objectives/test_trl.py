"""The preference losses are TRL's: its own methods are run, on random float64 numbers."""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from trivium.objectives import Dpo, Orpo, dpo_loss, orpo_loss, sequence_log_probs
from trivium.objectives.simpo import Simpo, simpo_loss
from trivium.types import Output

PAIRS, TIME, VOCABULARY = 4, 9, 17
close = {"rtol": 1e-6, "atol": 0}


@pytest.fixture(scope="module")
def trl():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dpo = pytest.importorskip("trl.trainer.dpo_trainer")
        orpo = pytest.importorskip("trl.experimental.orpo.orpo_trainer")
    return SimpleNamespace(dpo=dpo, orpo=orpo)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sample(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (2 PAIRS, TIME, V), chosen rows first, and labels that count only behind a prompt."""
    random = generator(seed)
    logits = 3 * torch.randn(2 * PAIRS, TIME, VOCABULARY, dtype=torch.float64, generator=random)
    labels = torch.randint(0, VOCABULARY, (2 * PAIRS, TIME), generator=random)
    for row in range(2 * PAIRS):
        labels[row, : 2 + row % 3] = -100
        labels[row, TIME - row % 2 :] = -100
    return logits, labels


class Double(torch.Tensor):
    """Keeps float64 where TRL casts to float32: its formula is compared, not its rounding."""

    def float(self):
        return self


@pytest.mark.parametrize("seed", range(3))
def test_sequence_log_probs(trl, seed):
    logits, labels = sample(seed)
    theirs = trl.orpo.ORPOTrainer.get_batch_logps(logits, labels)
    torch.testing.assert_close(sequence_log_probs(logits, labels), theirs, **close)


class Answers(torch.nn.Module):
    """A model whose per-token log-probabilities are given. A module, since TRL unwraps it where peft is installed."""

    is_gradient_checkpointing = False

    def __init__(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        super().__init__()
        goal = labels[:, 1:]
        logp = logits[:, :-1].log_softmax(-1).gather(-1, goal.clamp_min(0)[..., None])[..., 0]
        self.logp = logp.where(goal != -100, 0.0)

    def forward(self, **_):
        nothing = torch.zeros_like(self.logp)
        return SimpleNamespace(
            log_probs=self.logp, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool()
        )


def trl_dpo(trl, policy: Answers, reference: Answers, labels: torch.Tensor, beta: float) -> torch.Tensor:
    """DPOTrainer._compute_loss on a trainer that holds only what the method reads."""
    same = SimpleNamespace(device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x)
    trainer = SimpleNamespace(
        model=policy, ref_model=reference, accelerator=same, beta=beta, label_smoothing=0.0,
        loss_types=["sigmoid"], loss_weights=[1.0], f_divergence_type="reverse_kl",
        aux_loss_enabled=False, ld_alpha=None, precompute_ref_logps=False, use_weighting=False,
        args=SimpleNamespace(gradient_checkpointing_kwargs=None),
        _metrics={"train": defaultdict(list)}, _total_train_tokens=0, _tp_size=1,
    )  # fmt: skip
    inputs = {
        "input_ids": labels.clamp_min(0),
        "attention_mask": torch.ones_like(labels),
        "completion_mask": (labels != -100).long(),
    }
    return trl.dpo.DPOTrainer._compute_loss(trainer, policy, inputs, False), trainer._metrics["train"]


@pytest.mark.parametrize("beta", [0.05, 0.1, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_dpo(trl, seed, beta):
    logits, labels = sample(seed)
    other, _ = sample(seed + 100)
    expected, metrics = trl_dpo(trl, Answers(logits, labels), Answers(other, labels), labels, beta)
    policy, reference = sequence_log_probs(logits, labels), sequence_log_probs(other, labels)
    ours = dpo_loss(*policy.chunk(2), *reference.chunk(2), beta)
    assert ours.shape == (PAIRS,) and expected.dtype == torch.float64
    torch.testing.assert_close(ours.mean(), expected, **close)

    objective, batch = Dpo(beta), as_batch(labels) | {"ref_logp": reference}
    result = objective(Output(logp=Answers(logits, labels).logp), batch)
    torch.testing.assert_close(result.total / objective.weight(batch), expected, **close)
    for mine, name in (("margin", "rewards/margins"), ("accuracy", "rewards/accuracies")):
        total, weight = result.metrics[mine]
        assert float(total / weight) == pytest.approx(metrics[name][0], rel=1e-6)


@pytest.mark.parametrize("beta", [0.1, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_orpo(trl, seed, beta):
    """TRL's odds-ratio term, and the paper's likelihood term (TRL's own runs over the prompt too)."""
    logits, labels = sample(seed)
    mean = trl.orpo.ORPOTrainer.get_batch_logps(logits, labels, average_log_prob=True)
    trainer = SimpleNamespace(beta=beta, accelerator=SimpleNamespace(device="cpu"))
    chosen, rejected = (part.as_subclass(Double) for part in mean.chunk(2))
    ratio = trl.orpo.ORPOTrainer.odds_ratio_loss(trainer, chosen, rejected)[0].as_subclass(torch.Tensor)
    assert ratio.dtype == torch.float64
    likelihood = torch.stack(
        [
            F.cross_entropy(row[:-1], goal[1:], ignore_index=-100)
            for row, goal in zip(logits[:PAIRS], labels[:PAIRS], strict=True)
        ]
    )
    ours = orpo_loss(*mean.chunk(2), beta)
    torch.testing.assert_close(ours, likelihood - ratio, **close)

    objective, batch = Orpo(beta), as_batch(labels)
    result = objective(Output(logp=Answers(logits, labels).logp), batch)
    torch.testing.assert_close(result.total / objective.weight(batch), ours.mean(), **close)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("beta", "gamma"), [(2.0, 1.0), (2.5, 0.0), (10.0, 5.0)])
def test_simpo(seed, beta, gamma):
    cpo = pytest.importorskip("trl.experimental.cpo.cpo_trainer").CPOTrainer
    logits, labels = sample(seed)
    mean = cpo.get_batch_logps(logits, labels, average_log_prob=True)
    trainer = SimpleNamespace(
        beta=beta, simpo_gamma=gamma, alpha=0.0, loss_type="simpo", label_smoothing=0.0,
        accelerator=SimpleNamespace(device="cpu"),
    )  # fmt: skip
    theirs = cpo.cpo_loss(trainer, *(part.as_subclass(Double) for part in mean.chunk(2)))[0]
    ours = simpo_loss(*mean.chunk(2), beta, gamma)
    torch.testing.assert_close(ours, theirs.as_subclass(torch.Tensor), **close)

    objective, batch = Simpo(beta, gamma), as_batch(labels)
    result = objective(Output(logp=Answers(logits, labels).logp), batch)
    torch.testing.assert_close(result.total / objective.weight(batch), ours.mean(), **close)


def as_batch(labels: torch.Tensor) -> dict[str, torch.Tensor]:
    return {
        "loss_mask": (labels[:, 1:] != -100).float(),
        "pair": torch.arange(PAIRS).repeat(2),
        "label": torch.tensor([1, 0]).repeat_interleave(PAIRS),
    }


def test_orpo_stays_finite_for_a_certain_reply():
    certain = torch.zeros(1, requires_grad=True)
    loss = orpo_loss(certain, torch.tensor([-2.0]), 0.1)
    loss.sum().backward()
    assert loss.isfinite().all() and certain.grad.isfinite().all()


def test_dpo_stays_finite_for_margins_of_any_size():
    margin = torch.tensor([-1e4, -50.0, 0.0, 50.0, 1e4], requires_grad=True)
    zero = torch.zeros(5)
    loss = dpo_loss(margin, zero, zero, zero, 1.0)
    loss.sum().backward()
    expected = torch.tensor([1e4, 50.0, math.log(2), 0.0, 0.0])
    torch.testing.assert_close(loss, expected)
    assert margin.grad.isfinite().all()
