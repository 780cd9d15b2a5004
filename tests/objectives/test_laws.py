"""What must hold for every objective, whatever it computes. A new phase that is not listed here fails the first test."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import NamedTuple

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
    """`units` pairs, their rows in any order. A reply's last token is in its row: the last place has no target that counts."""
    order = rng.permutation(2 * units)
    made = sequences(rng, 2 * units)
    made["loss_mask"][:, -1] = 0
    return made | {
        "pair": torch.from_numpy(np.repeat(np.arange(units), 2)[order] * 3 + 1),
        "label": torch.from_numpy(np.tile([1, 0], units)[order]),
        "ref_logp": torch.from_numpy(rng.normal(-5, 3, 2 * units).astype(np.float32)),
    }


def single_replies(rng: np.random.Generator, units: int) -> Batch:
    """`units` replies, each marked good or bad, with one baseline for all."""
    return sequences(rng, units) | {
        "label": torch.from_numpy(rng.integers(0, 2, units)),
        "ref_logp": torch.from_numpy(rng.normal(-5, 3, units).astype(np.float32)),
        "kl": torch.full((units,), 0.4),
    }


def rollouts(rng: np.random.Generator, units: int) -> Batch:
    """`units` replies of the policy's own, with what was found out about each token."""
    names = ("old_logp", "ref_token_logp", "advantage", "returns", "old_values")
    made = {name: torch.from_numpy(rng.normal(0, 2, (units, TIME)).astype(np.float32)) for name in names}
    correction = torch.from_numpy(rng.uniform(0, 2, (units, TIME)).astype(np.float32))
    return sequences(rng, units) | made | {"correction": correction}


def with_teacher(rng: np.random.Generator, units: int) -> Batch:
    logits = rng.normal(0, 2, (units, TIME, VOCABULARY)).astype(np.float32)
    return sequences(rng, units) | {"teacher_logits": torch.from_numpy(logits)}


class Case(NamedTuple):
    """A phase, what its batches look like, what its weight counts, and fields of the recipe that are not the usual ones."""

    phase: str
    batch: Callable[[np.random.Generator, int], Batch]
    unit: str
    fields: dict[str, object] = {}


CASES = {
    "pretrain": Case("pretrain", sequences, "token"),
    "sft": Case("sft", sequences, "token"),
    "reward": Case("reward", preference_pairs, "pair"),
    "dpo": Case("dpo", preference_pairs, "pair"),
    "dpo, ipo": Case("dpo", preference_pairs, "pair", {"loss": "ipo", "nll": 0.0}),
    "dpo, hinge": Case("dpo", preference_pairs, "pair", {"loss": "hinge", "length_normalised": True}),
    "orpo": Case("orpo", preference_pairs, "pair"),
    "kto": Case("kto", single_replies, "reply"),
    "ppo": Case("ppo", rollouts, "token"),
    "grpo": Case("grpo", rollouts, "token"),
    "grpo, by reply": Case("grpo", rollouts, "reply", {"loss": "grpo"}),
    "grpo, dr": Case("grpo", rollouts, "reply", {"loss": "dr_grpo"}),
    "distill": Case("distill", with_teacher, "token"),
    "distill, js": Case("distill", with_teacher, "token", {"divergence": "js", "share": 1.0}),
}
every = pytest.mark.parametrize("kind", CASES)

FIELDS = dict(
    beta=0.3, nll=0.5, label_smoothing=0.1, length_normalised=False, margin=0.1, centring=0.01, desirable=1.0,
    undesirable=1.5, clip_epsilon=0.2, value_clip=0.2, value_weight=0.3, entropy_weight=0.1, max_new_tokens=TIME,
    clip_epsilon_high=0.3, kl=0.1, divergence="forward", distill_temperature=2.0, mix=0.3, share=0.6,
)  # fmt: skip


def batch_of(kind: str, rng: np.random.Generator, units: int) -> Batch:
    return CASES[kind].batch(rng, units)


def objective_of(kind: str, z_loss: float = 0.1) -> Objective:
    case = CASES[kind]
    usual = {"grpo": "dapo"}.get(case.phase, "sigmoid")
    return PHASES[case.phase].objective(
        SimpleNamespace(**{**FIELDS, "z_loss": z_loss, "loss": usual, **case.fields})
    )


class Bigram(torch.nn.Module):
    """The smallest language model: a float64 table, so that what differs differs by rounding only."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        table = torch.randn(VOCABULARY, VOCABULARY, dtype=torch.float64, generator=generator)
        self.table = torch.nn.Parameter(table)

    def forward(self, batch: Batch) -> Output:
        logits = self.table[batch["tokens"]]
        every = logits.log_softmax(-1)
        logp = every.gather(-1, batch["targets"].unsqueeze(-1)).squeeze(-1)
        entropy = -(every.exp() * every).sum(-1)
        return Output(logp, logits, entropy, values=logits[..., 0], log_z=logits.logsumexp(-1))


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
    assert {case.phase for case in CASES.values()} == set(PHASES)


@every
@settings(max_examples=40)
@given(rng=RNG, units=st.integers(1, 6), parts=st.integers(1, 4))
def test_splitting_into_micro_batches_leaves_gradient_and_metrics(kind, rng, units, parts):
    objective, batch = objective_of(kind), batch_of(kind, rng, units)
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
    objective, batch = objective_of(kind), batch_of(kind, rng, units)
    shuffled = rows(batch, torch.from_numpy(rng.permutation(len(batch["tokens"]))))
    torch.testing.assert_close(loss(objective, shuffled).total, loss(objective, batch).total)
    torch.testing.assert_close(gradient(objective, shuffled), gradient(objective, batch))
    assert objective.weight(shuffled) == objective.weight(batch)


@every
@settings(max_examples=40)
@given(rng=RNG, units=st.integers(1, 6), extra=st.integers(1, 5))
def test_padding_leaves_loss_and_gradient(kind, rng, units, extra):
    objective, batch = objective_of(kind), batch_of(kind, rng, units)
    longer = dict(batch)
    for name, value in batch.items():
        if value.dim() > 1:  # the places are the second axis
            longer[name] = torch.cat([value, value.new_zeros(value.shape[0], extra, *value.shape[2:])], 1)
    torch.testing.assert_close(gradient(objective, longer), gradient(objective, batch))
    assert objective.weight(longer) == objective.weight(batch)


@every
@settings(max_examples=40)
@given(rng=RNG, units=st.integers(1, 6))
def test_a_masked_target_changes_nothing(kind, rng, units):
    objective, batch = objective_of(kind), batch_of(kind, rng, units)
    other = torch.from_numpy(rng.integers(0, VOCABULARY, batch["targets"].shape))
    changed = batch | {"targets": batch["targets"].where(batch["loss_mask"] > 0, other)}
    assert torch.equal(loss(objective, changed).total, loss(objective, batch).total)
    torch.testing.assert_close(gradient(objective, changed), gradient(objective, batch), rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    "kind", [kind for kind in CASES if kind != "reward"]
)  # which reads no log-probability
@settings(max_examples=40)
@given(rng=RNG, units=st.integers(1, 6))
def test_an_impossible_masked_target_changes_nothing(kind, rng, units):
    """Probability zero (-inf) where nothing is learned must not become 0 x inf = NaN."""
    objective, batch = objective_of(kind), batch_of(kind, rng, units)
    out = Output(*(None if x is None else x.detach() for x in Bigram()(batch)))
    assert out.logp is not None
    holed = out.logp.where(batch["loss_mask"] > 0, -math.inf).requires_grad_()
    result = objective(out._replace(logp=holed), batch)
    assert torch.equal(result.total, objective(out, batch).total)
    if result.total.requires_grad:  # not where the likelihood has no share
        result.total.backward()
        assert holed.grad is not None and holed.grad.isfinite().all()
        assert (holed.grad[batch["loss_mask"] == 0] == 0).all()


@every
@settings(max_examples=20)
@given(rng=RNG, units=st.integers(1, 6))
def test_all_masked_is_a_finite_zero(kind, rng, units):
    objective, batch = objective_of(kind), batch_of(kind, rng, units)
    batch["loss_mask"] = torch.zeros_like(batch["loss_mask"])
    result = loss(objective, batch)
    assert result.total == 0 and objective.weight(batch) == 0
    assert torch.equal(gradient(objective, batch), torch.zeros(VOCABULARY, VOCABULARY, dtype=torch.float64))
    assert all(total == 0 and weight == 0 for total, weight in result.metrics.values())


@every
@settings(max_examples=40)
@given(rng=RNG, units=st.integers(1, 6))
def test_weights_are_counts_and_the_loss_metric_is_the_total(kind, rng, units):
    objective, batch = objective_of(kind, z_loss=0.0), batch_of(kind, rng, units)
    learned = batch["loss_mask"].sum(-1).tolist()
    replies = [float(count > 0) for count in learned]
    expected = sum(learned if CASES[kind].unit == "token" else replies)
    if CASES[kind].unit == "pair":
        whole: dict[int, float] = {}
        for pair, reply in zip(batch["pair"].tolist(), replies, strict=True):
            whole[pair] = whole.get(pair, 0) + reply
        expected = sum(count == 2 for count in whole.values())
    assert objective.weight(batch) == expected
    result = loss(objective, batch)
    assert result.metrics["loss"][0] == result.total
    assert result.metrics["loss"][1] == expected
    assert not any(total.requires_grad for total, _ in result.metrics.values())
    assert all(0 <= weight <= max(expected, sum(learned)) for _, weight in result.metrics.values())


@every
@settings(max_examples=20)
@given(rng=RNG, units=st.integers(1, 6))
def test_objectives_leave_their_input_alone(kind, rng, units):
    objective, batch = objective_of(kind), batch_of(kind, rng, units)
    before = {name: value.clone() for name, value in batch.items()}
    loss(objective, batch)
    assert all(torch.equal(batch[name], value) for name, value in before.items())


@pytest.mark.parametrize("kind", ["pretrain", "sft"])
@settings(max_examples=20)
@given(rng=RNG, units=st.integers(1, 6))
def test_packing_rows_leaves_the_gradient(kind, rng, units):
    """The pairs' objectives have one reply to a row by definition; the whole model is tried in tests/batches."""
    objective, batch = objective_of(kind), batch_of(kind, rng, units)
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


@pytest.mark.parametrize("kind", ["reward", "dpo", "orpo"])
@pytest.mark.parametrize("keep", [[0], [0, 1, 2], [0, 2]])
def test_half_a_pair_is_refused(kind, keep):
    batch = preference_pairs(np.random.default_rng(0), 2)
    batch |= {"pair": torch.tensor([7, 7, 8, 8]), "label": torch.tensor([1, 0, 1, 0])}
    with pytest.raises(ValueError, match="exactly one chosen and one rejected"):
        objective_of(kind).weight(rows(batch, keep))
