"""What must hold for every objective: the laws of `trivium.testing` over every row of the table, and a few of single methods."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trivium import testing
from trivium.objectives import Dpo, NextToken
from trivium.phases import PHASES
from trivium.testing import RNG, Bigram, Case, cases, laws, pairs, rows
from trivium.types import Loss

test_every_objective_keeps_the_laws = laws(*PHASES, examples=12)


def test_the_cases_are_the_choices_that_the_stages_offer():
    names = {case.name for kind in PHASES for case in cases(kind)}
    assert set(PHASES) <= names
    assert {"dpo, loss ipo", "dpo, length_normalised True, other numbers", "grpo, loss dr_grpo"} <= names
    assert {"pretrain, other numbers", "distill, divergence js, other numbers"} <= names


class Mean(NextToken):
    """The mean over the micro-batch instead of the sum."""

    def __call__(self, out, batch):
        total, metrics = super().__call__(out, batch)
        return Loss(total / self.weight(batch).clamp_min(1), metrics)


class Everything(NextToken):
    """Masked targets count, too."""

    def __call__(self, out, batch):
        return super().__call__(out, batch | {"loss_mask": torch.ones_like(batch["loss_mask"])})


@pytest.mark.parametrize(
    ("broken", "law"),
    [
        (Mean, testing.micro_batches_leave_gradient_and_metrics),
        (Mean, testing.weights_are_counts_and_metrics_are_detached),
        (Everything, testing.a_masked_target_changes_nothing),
        (Everything, testing.all_masked_is_a_finite_zero),
    ],
)
def test_a_law_refuses_what_breaks_it(broken, law):
    class Broken(Case):
        objective = broken()

    case = Broken("broken", cases("pretrain")[0].config)
    with pytest.raises(AssertionError):
        for seed in range(20):
            law(case, np.random.default_rng(seed), 4)


@settings(max_examples=40)
@given(rng=RNG, units=st.integers(1, 6), beta=st.floats(0.01, 10))
def test_dpo_is_ln_2_for_each_pair_when_the_policy_is_the_reference(rng, units, beta):
    batch = pairs(rng, units)
    out = Bigram()(batch)
    batch["ref_logp"] = (out.logp * batch["loss_mask"]).sum(-1).detach()
    objective = Dpo(beta)
    result = objective(out, batch)
    assert result.total.item() == pytest.approx(math.log(2) * objective.weight(batch).item())
    assert result.metrics["margin"][0] == 0 and result.metrics["accuracy"][0] == 0


@pytest.mark.parametrize("kind", [kind for kind, phase in PHASES.items() if phase.stage.rows == "pairs"])
@pytest.mark.parametrize("keep", [[0], [0, 1, 2], [0, 2]])
def test_half_a_pair_is_refused(kind, keep):
    batch = pairs(np.random.default_rng(0), 2)
    batch |= {"pair": torch.tensor([7, 7, 8, 8]), "label": torch.tensor([1, 0, 1, 0])}
    with pytest.raises(ValueError, match="exactly one chosen and one rejected"):
        cases(kind)[0].objective.weight(rows(batch, keep))
