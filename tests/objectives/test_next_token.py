"""Next-token cross-entropy is torch's and transformers'."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from trivium.objectives import NextToken, next_token_loss
from trivium.types import Output


def sample(dtype: torch.dtype, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(3, 8, 13, generator=generator, dtype=dtype)
    labels = torch.randint(0, 13, (3, 8), generator=generator)
    return logits, labels.where(torch.rand(3, 8, generator=generator) < 0.7, -100)


@pytest.mark.parametrize("seed", range(5))
def test_it_is_torchs_cross_entropy(seed):
    logits, labels = sample(torch.float64, seed)
    logits.requires_grad_()
    ours = next_token_loss(logits, labels)
    theirs = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.autograd.grad(ours, logits), torch.autograd.grad(theirs, logits))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_transformers_loss(dtype):
    loss_utils = pytest.importorskip("transformers.loss.loss_utils")
    logits, labels = sample(dtype)
    theirs = loss_utils.ForCausalLMLoss(logits, labels, vocab_size=13)
    ours = next_token_loss(logits, labels)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)


def test_with_no_label_left_it_is_zero():
    logits, labels = sample(torch.float32)
    logits.requires_grad_()
    loss = next_token_loss(logits, torch.full_like(labels, -100))
    loss.backward()
    assert loss == 0 and torch.equal(logits.grad, torch.zeros_like(logits))


def test_the_objective_is_the_function_times_its_weight():
    logits, labels = sample(torch.float64)
    goal = labels[:, 1:]
    batch = {"loss_mask": (goal != -100).float()}
    logp = logits[:, :-1].log_softmax(-1).gather(-1, goal.clamp_min(0)[..., None])[..., 0]
    objective = NextToken()
    total = objective(Output(logp=logp), batch).total
    torch.testing.assert_close(total / objective.weight(batch), next_token_loss(logits, labels))
    log_z = logits[:, :-1].logsumexp(-1)
    with_z = NextToken(z_loss=0.1)(Output(logp=logp, log_z=log_z), batch)
    torch.testing.assert_close(with_z.total, total + 0.1 * (log_z**2)[goal != -100].sum())
    assert with_z.metrics["loss"][0] == total.detach()


@pytest.mark.parametrize("phase", ["sft", "distill"])
def test_a_weight_of_two_is_the_target_twice(phase):
    from trivium.objectives import Distill

    objective = NextToken(1e-3) if phase == "sft" else Distill("forward", 1.0, 0.5, 0.5)
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(1, 4, 7, generator=generator)
    out = Output(
        logits=logits, logp=torch.randn(1, 4, generator=generator).abs().neg(), log_z=torch.rand(1, 4)
    )
    batch = {"teacher_logits": torch.randn(1, 4, 7, generator=generator)}

    def total(mask):
        weighted = {**batch, "loss_mask": torch.tensor([mask])}
        return objective(out, weighted).total, objective.weight(weighted)

    (one, first), (two, second), (both, weight) = (
        total(mask) for mask in ([1.0, 0, 1, 0], [1.0, 0, 0, 0], [2.0, 0, 1, 0])
    )
    torch.testing.assert_close(both, one + two)
    assert weight == first + second
