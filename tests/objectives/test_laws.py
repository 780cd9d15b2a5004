"""What must hold for every objective, whatever it computes. A new phase that is not listed here fails the first test."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trivium.objectives import Dpo
from trivium.phases import PHASES
from trivium.types import Batch, Loss, Objective, Output

TIME, VOCABULARY = 6, 9
RNG = st.integers(0, 2**32 - 1).map(np.random.default_rng)


def sequences(rng: np.random.Generator, units: int) -> Batch:
    """`units` rows with masks of every kind: full, empty, holes."""
    density = rng.choice([0.0, 0.5, 1.0], (units, 1))
    return {
        "tokens": torch.from_numpy(rng.integers(0, VOCABULARY, (units, TIME))),
        "targets": torch.from_numpy(rng.integers(0, VOCABULARY, (units, TIME))),
        "loss_mask": torch.from_numpy((rng.random((units, TIME)) < density).astype(np.float32)),
    }


def preference_pairs(rng: np.random.Generator, units: int) -> Batch:
    """`units` pairs, their rows in any order."""
    order = rng.permutation(2 * units)
    return sequences(rng, 2 * units) | {
        "pair": torch.from_numpy(np.repeat(np.arange(units), 2)[order] * 3 + 1),
        "label": torch.from_numpy(np.tile([1, 0], units)[order]),
        "ref_logp": torch.from_numpy(rng.normal(-5, 3, 2 * units).astype(np.float32)),
    }


MAKERS: dict[str, Callable[[np.random.Generator, int], Batch]] = {
    "pretrain": sequences,
    "sft": sequences,
    "dpo": preference_pairs,
    "orpo": preference_pairs,
}
every = pytest.mark.parametrize("kind", MAKERS)


def objective_of(kind: str, z_loss: float = 0.1) -> Objective:
    return PHASES[kind].objective(SimpleNamespace(beta=0.3, nll=0.5, z_loss=z_loss))


class Bigram(torch.nn.Module):
    """The smallest language model: a float64 table, so that what differs differs by rounding only."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        table = torch.randn(VOCABULARY, VOCABULARY, dtype=torch.float64, generator=generator)
        self.table = torch.nn.Parameter(table)

    def forward(self, batch: Batch) -> Output:
        logp = self.table.log_softmax(-1)[batch["tokens"]]
        log_z = self.table.logsumexp(-1)[batch["tokens"]]
        return Output(logp=logp.gather(-1, batch["targets"].unsqueeze(-1)).squeeze(-1), log_z=log_z)


def gradient(objective: Objective, *micro: Batch) -> torch.Tensor:
    """As the loop does it: sums over micro-batches, one denominator known beforehand."""
    model = Bigram()
    weight = torch.stack([objective.weight(batch) for batch in micro]).sum().clamp_min(1)
    for batch in micro:
        (objective(model(batch), batch).total / weight).backward()
    assert model.table.grad is not None
    return model.table.grad


def loss(objective: Objective, batch: Batch) -> Loss:
    return objective(Bigram()(batch), batch)


def rows(batch: Batch, index: object) -> Batch:
    return {name: value[index] for name, value in batch.items()}  # type: ignore[index, return-value]


def test_every_phase_is_here():
    assert set(MAKERS) == set(PHASES)


@every
@settings(max_examples=40)
@given(rng=RNG, units=st.integers(1, 6), parts=st.integers(1, 4))
def test_splitting_into_micro_batches_leaves_gradient_and_metrics(kind, rng, units, parts):
    objective, batch = objective_of(kind), MAKERS[kind](rng, units)
    unit = batch.get("pair", torch.arange(units))  # the rows of a pair stay together
    part_of = dict(zip(unit.unique().tolist(), rng.integers(0, parts, units).tolist(), strict=True))
    part = torch.tensor([part_of[number] for number in unit.tolist()])
    micro = [rows(batch, part == number) for number in part.unique()]
    torch.testing.assert_close(gradient(objective, *micro), gradient(objective, batch))
    whole = loss(objective, batch).metrics
    for name, (total, weight) in whole.items():
        pieces = [loss(objective, piece).metrics[name] for piece in micro]
        torch.testing.assert_close(sum(piece[0] for piece in pieces), total)
        assert sum(piece[1] for piece in pieces) == weight


@every
@settings(max_examples=40)
@given(rng=RNG, units=st.integers(1, 6))
def test_permuting_rows_leaves_loss_and_gradient(kind, rng, units):
    objective, batch = objective_of(kind), MAKERS[kind](rng, units)
    shuffled = rows(batch, torch.from_numpy(rng.permutation(len(batch["tokens"]))))
    torch.testing.assert_close(loss(objective, shuffled).total, loss(objective, batch).total)
    torch.testing.assert_close(gradient(objective, shuffled), gradient(objective, batch))
    assert objective.weight(shuffled) == objective.weight(batch)


@every
@settings(max_examples=40)
@given(rng=RNG, units=st.integers(1, 6), extra=st.integers(1, 5))
def test_padding_leaves_loss_and_gradient(kind, rng, units, extra):
    objective, batch = objective_of(kind), MAKERS[kind](rng, units)
    longer = dict(batch)
    for name in ("tokens", "targets", "loss_mask"):
        longer[name] = torch.nn.functional.pad(batch[name], (0, extra))
    torch.testing.assert_close(gradient(objective, longer), gradient(objective, batch))
    assert objective.weight(longer) == objective.weight(batch)


@every
@settings(max_examples=40)
@given(rng=RNG, units=st.integers(1, 6))
def test_a_masked_target_changes_nothing(kind, rng, units):
    objective, batch = objective_of(kind), MAKERS[kind](rng, units)
    other = torch.from_numpy(rng.integers(0, VOCABULARY, batch["targets"].shape))
    changed = batch | {"targets": batch["targets"].where(batch["loss_mask"] > 0, other)}
    assert torch.equal(loss(objective, changed).total, loss(objective, batch).total)
    torch.testing.assert_close(gradient(objective, changed), gradient(objective, batch), rtol=0, atol=1e-15)


@every
@settings(max_examples=40)
@given(rng=RNG, units=st.integers(1, 6))
def test_an_impossible_masked_target_changes_nothing(kind, rng, units):
    """Probability zero (-inf) where nothing is learned must not become 0 x inf = NaN."""
    objective, batch = objective_of(kind), MAKERS[kind](rng, units)
    logp = torch.from_numpy(-rng.exponential(2, batch["loss_mask"].shape))
    holed = logp.where(batch["loss_mask"] > 0, -math.inf).requires_grad_()
    result = objective(Output(logp=holed, log_z=logp), batch)
    assert torch.equal(result.total, objective(Output(logp=logp, log_z=logp), batch).total)
    result.total.backward()
    assert holed.grad is not None and holed.grad.isfinite().all()
    assert (holed.grad[batch["loss_mask"] == 0] == 0).all()


@every
@settings(max_examples=20)
@given(rng=RNG, units=st.integers(1, 6))
def test_all_masked_is_a_finite_zero(kind, rng, units):
    objective, batch = objective_of(kind), MAKERS[kind](rng, units)
    batch["loss_mask"] = torch.zeros_like(batch["loss_mask"])
    result = loss(objective, batch)
    assert result.total == 0 and objective.weight(batch) == 0
    assert torch.equal(gradient(objective, batch), torch.zeros(VOCABULARY, VOCABULARY, dtype=torch.float64))
    assert all(total == 0 and weight == 0 for total, weight in result.metrics.values())


@every
@settings(max_examples=40)
@given(rng=RNG, units=st.integers(1, 6))
def test_weights_are_counts_and_the_loss_metric_is_the_total(kind, rng, units):
    objective, batch = objective_of(kind, z_loss=0.0), MAKERS[kind](rng, units)
    learned = batch["loss_mask"].sum(-1).tolist()
    if "pair" in batch:
        replies: dict[int, int] = {}
        for pair, count in zip(batch["pair"].tolist(), learned, strict=True):
            replies[pair] = replies.get(pair, 0) + (count > 0)
        expected = sum(count == 2 for count in replies.values())
    else:
        expected = sum(learned)
    assert objective.weight(batch) == expected
    result = loss(objective, batch)
    assert result.metrics["loss"][0] == result.total
    assert not result.metrics["loss"][0].requires_grad
    assert {float(weight) for _, weight in result.metrics.values()} == {float(expected)}


@every
@settings(max_examples=20)
@given(rng=RNG, units=st.integers(1, 6))
def test_objectives_leave_their_input_alone(kind, rng, units):
    objective, batch = objective_of(kind), MAKERS[kind](rng, units)
    before = {name: value.clone() for name, value in batch.items()}
    loss(objective, batch)
    assert all(torch.equal(batch[name], value) for name, value in before.items())


@pytest.mark.parametrize("kind", ["pretrain", "sft"])
@settings(max_examples=20)
@given(rng=RNG, units=st.integers(1, 6))
def test_packing_rows_leaves_the_gradient(kind, rng, units):
    """The pairs' objectives have one reply to a row by definition; the whole model is tried in tests/batches."""
    objective, batch = objective_of(kind), MAKERS[kind](rng, units)
    packed = {name: value.reshape(1, -1) for name, value in batch.items()}
    torch.testing.assert_close(gradient(objective, packed), gradient(objective, batch))


@settings(max_examples=40)
@given(rng=RNG, units=st.integers(1, 6), beta=st.floats(0.01, 10))
def test_dpo_is_ln_2_for_each_pair_when_the_policy_is_the_reference(rng, units, beta):
    batch = preference_pairs(rng, units)
    out = Bigram()(batch)
    batch["ref_logp"] = (out.logp * batch["loss_mask"]).sum(-1).detach()
    objective = Dpo(beta)
    result = objective(out, batch)
    assert result.total.item() == pytest.approx(math.log(2) * objective.weight(batch).item())
    assert result.metrics["margin"][0] == 0 and result.metrics["accuracy"][0] == 0


@pytest.mark.parametrize("kind", ["dpo", "orpo"])
@pytest.mark.parametrize("keep", [[0], [0, 1, 2], [0, 2]])
def test_half_a_pair_is_refused(kind, keep):
    batch = preference_pairs(np.random.default_rng(0), 2)
    batch |= {"pair": torch.tensor([7, 7, 8, 8]), "label": torch.tensor([1, 0, 1, 0])}
    with pytest.raises(ValueError, match="exactly one chosen and one rejected"):
        objective_of(kind).weight(rows(batch, keep))
