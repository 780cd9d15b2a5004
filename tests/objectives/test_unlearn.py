"""NPO is the paper's: its value at the start, its gradient, its limit; a row that is forgotten is left alone."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trivium.objectives.unlearn import Unlearn, npo_loss
from trivium.testing import RNG, gradient, pairs

LOGP = st.lists(st.floats(-60, -0.1), min_size=1, max_size=5)
BETA = st.floats(0.01, 2)


def slope(policy: list[float], reference: list[float], beta: float) -> torch.Tensor:
    ours = torch.tensor(policy, dtype=torch.float64, requires_grad=True)
    loss = npo_loss(ours, torch.tensor(reference, dtype=torch.float64), beta).sum()
    [found] = torch.autograd.grad(loss, [ours])
    return found


@given(LOGP, BETA)
def test_with_policy_and_reference_alike_it_is_two_ln_two_by_beta_and_ascends(logp, beta):
    same = torch.tensor(logp, dtype=torch.float64)
    torch.testing.assert_close(npo_loss(same, same, beta), torch.full_like(same, 2 * math.log(2) / beta))
    torch.testing.assert_close(slope(logp, logp, beta), torch.ones_like(same))


@given(LOGP, st.floats(-80, 20), BETA)
def test_its_gradient_is_that_of_ascent_times_the_weight_of_equation_4(logp, moved, beta):
    policy = [one + moved for one in logp]
    ratio = torch.full((len(logp),), math.exp(-beta * moved), dtype=torch.float64)  # (pi_ref / pi)^beta
    torch.testing.assert_close(slope(policy, logp, beta), 2 / (1 + ratio), rtol=1e-9, atol=1e-12)


@given(LOGP, st.floats(-5, 5))
def test_as_beta_goes_to_nothing_it_is_gradient_ascent(logp, moved):
    torch.testing.assert_close(
        slope([one + moved for one in logp], logp, 1e-7),
        torch.ones(len(logp), dtype=torch.float64), rtol=0, atol=1e-5,
    )  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(RNG, st.integers(1, 5))
def test_the_retain_term_is_all_that_is_left_of_rows_long_forgotten(rng, units):
    batch = pairs(rng, units)
    batch["loss_mask"][:, 0] = 1  # every pair is valid
    batch["ref_logp"] = torch.full_like(batch["ref_logp"], 1e4)  # the policy is far below
    kept = {name: value.clone() for name, value in batch.items()}
    kept["loss_mask"][batch["label"] == 0] = 0
    kept["loss_mask"][batch["label"] == 0, 0] = 1
    first = gradient(Unlearn("npo", 1.0, 1.0), batch)
    torch.testing.assert_close(first, gradient(Unlearn("npo", 1.0, 1.0), kept))
    assert first.abs().sum() > 0
    assert not gradient(Unlearn("npo", 1.0, 0.0), batch).any()
