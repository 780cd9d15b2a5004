"""From rewards to advantages, worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import tensor

from trivium.batches.advantages import group_advantages, token_rewards, whiten
from trivium.objectives.ppo import gae


def test_a_reply_is_held_against_its_own_group():
    rewards = tensor([1.0, 0.0, 0.0, 1.0, 5.0, 3.0, 1.0, 3.0])
    assert group_advantages(rewards, 4, scale=False).tolist() == [0.5, -0.5, -0.5, 0.5, 2, 0, -2, 0]
    scaled = group_advantages(rewards, 4, scale=True)
    first, second = math.sqrt(1 / 3) + 1e-4, math.sqrt(8 / 3) + 1e-4  # of three degrees of freedom
    expected = [0.5 / first, -0.5 / first, -0.5 / first, 0.5 / first, 2 / second, 0, -2 / second, 0]
    assert scaled.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("scale", [True, False])
def test_a_group_without_signal_teaches_nothing_and_others_are_left_alone(scale):
    rewards = tensor([1.0, 1.0, 0.0, 0.0, 1.0, 0.0])
    found = group_advantages(rewards, 2, scale=scale)
    assert found[:4].tolist() == [0, 0, 0, 0]
    assert found[4] > 0 > found[5] and found[4] == -found[5]
    large = group_advantages(tensor([1e6, 1e6 + 1, 0.0, 0.0]), 2, scale=scale)
    assert large.isfinite().all() and large[0] < 0 < large[1]


def test_replies_that_make_no_whole_groups_are_a_mistake():
    with pytest.raises(RuntimeError, match="invalid for input of size 5"):
        group_advantages(torch.zeros(5), 4, scale=True)


MASK = tensor([[0.0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]])


def test_each_token_pays_for_leaving_the_reference_and_the_last_is_scored():
    old = tensor([[9.0, -1, -2, 9], [9, 9, -0.5, 9], [9, 9, 9, 9]])
    reference = tensor([[0.0, -1.5, -1, 0], [0, 0, -0.5, 0], [0, 0, 0, 0]])
    found = token_rewards(tensor([10.0, 20.0, 30.0]), old, reference, MASK, kl=0.1)
    expected = tensor([[0, -0.05, 10 + 0.1, 0], [0, 0, 20, 0], [0, 0, 0, 0]])  # an empty reply gets nothing
    torch.testing.assert_close(found, expected)
    free = token_rewards(tensor([10.0, 20.0, 30.0]), old, reference, MASK, kl=0.0)
    assert free.tolist() == [[0, 0, 10, 0], [0, 0, 20, 0], [0, 0, 0, 0]]


def test_returns_and_advantages_of_two_tokens():
    rewards, values = tensor([[0.0, 1.0, 2.0, 0.0]]), tensor([[7.0, 0.5, 3.0, 7.0]])
    advantage, returns = gae(rewards, values, MASK[:1], gamma=0.9, gae_lambda=0.5)
    last = 2.0 - 3.0  # nothing comes after a reply
    first = (1.0 + 0.9 * 3.0 - 0.5) + 0.9 * 0.5 * last
    torch.testing.assert_close(advantage, tensor([[0, first, last, 0]]))
    torch.testing.assert_close(returns, tensor([[0, first + 0.5, last + 3.0, 0]]))
    monte_carlo = gae(rewards, values, MASK[:1], gamma=1.0, gae_lambda=1.0)[1]
    assert monte_carlo.tolist() == [[0, 3, 2, 0]]  # lambda 1: what really came


def test_whitened_is_mean_0_and_deviation_1_where_the_mask_is():
    found = whiten(tensor([[100.0, 1, 3, 100], [100, 100, 5, 100], [100, 100, 100, 100]]), MASK)
    assert found[MASK == 0].abs().sum() == 0
    spread = math.sqrt(8 / 3)
    assert found[MASK > 0].tolist() == pytest.approx([-2 / spread, 0, 2 / spread])
    same = whiten(torch.full((3, 4), 4.0), MASK)
    assert same.abs().sum() == 0  # no signal, and no division by zero
    assert whiten(torch.ones(2, 3), torch.zeros(2, 3)).abs().sum() == 0
