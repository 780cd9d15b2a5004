"""The laws that every objective keeps, whatever it computes, for the phases of Trivium and for those of other packages alike:

    from trivium.testing import laws
    test_objective = laws("margin")

is a whole test file. A law is tried on the objective that the kind's row makes of its stage's defaults, of each choice that the
stage offers, and of numbers that are not the defaults, with batches of the shape that the stage declares (`rows`).

Needs pytest and hypothesis: `pip install 'trivium[testing]'`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from trivium.phases import PHASES
from trivium.recipe.training import TrainingStage
from trivium.types import Batch, Loss, Objective, Output

TIME, VOCABULARY = 6, 9
RNG = st.integers(0, 2**32 - 1).map(np.random.default_rng)
Generator = np.random.Generator


def replies(rng: Generator, units: int) -> Batch:
    """`units` rows with masks of every kind: full, empty, holes."""
    density = rng.choice([0.0, 0.5, 1.0], (units, 1))
    return {
        "tokens": torch.from_numpy(rng.integers(0, VOCABULARY, (units, TIME))),
        "targets": torch.from_numpy(rng.integers(0, VOCABULARY, (units, TIME))),
        "loss_mask": torch.from_numpy((rng.random((units, TIME)) < density).astype(np.float32)),
    }


def pairs(rng: Generator, units: int) -> Batch:
    """`units` pairs, their rows in any order. A reply's last token is in its row: the last place has no target that counts."""
    order = rng.permutation(2 * units)
    batch = replies(rng, 2 * units)
    batch["loss_mask"][:, -1] = 0
    return batch | {
        "pair": torch.from_numpy(np.repeat(np.arange(units), 2)[order] * 3 + 1),
        "label": torch.from_numpy(np.tile([1, 0], units)[order]),
        "ref_logp": torch.from_numpy(rng.normal(-5, 3, 2 * units).astype(np.float32)),
    }


def marked(rng: Generator, units: int) -> Batch:
    """`units` replies, each marked good or bad, with one baseline for all."""
    return replies(rng, units) | {
        "label": torch.from_numpy(rng.integers(0, 2, units)),
        "ref_logp": torch.from_numpy(rng.normal(-5, 3, units).astype(np.float32)),
        "kl": torch.full((units,), 0.4),
    }


def rollouts(rng: Generator, units: int) -> Batch:
    """`units` replies of the policy's own, with what was found out about each token."""
    names = ("old_logp", "ref_token_logp", "advantage", "returns", "old_values")
    about: Any = {
        name: torch.from_numpy(rng.normal(0, 2, (units, TIME)).astype(np.float32)) for name in names
    }
    correction = torch.from_numpy(rng.uniform(0, 2, (units, TIME)).astype(np.float32))
    batch: Batch = replies(rng, units) | about | {"correction": correction}
    return batch


def taught(rng: Generator, units: int) -> Batch:
    """With a teacher's logits, and what one with other tokens says: some are shared, a few are its own."""
    logits = torch.from_numpy(rng.normal(0, 2, (units, TIME, VOCABULARY)).astype(np.float32))
    shared = torch.from_numpy(rng.random(VOCABULARY) < 0.5)
    rest = torch.from_numpy(rng.random((units, TIME, 3)).astype(np.float32))
    return replies(rng, units) | {
        "teacher_logits": logits,
        "span": torch.from_numpy(rng.integers(0, 2, (units, TIME)).cumsum(1)),
        "teacher_logp": logits.log_softmax(-1).masked_fill(~shared, -torch.inf),
        "teacher_rest": rest.sort(-1, descending=True).values / 3,
    }


BATCHES: dict[str, Callable[[Generator, int], Batch]] = {
    "documents": replies,
    "replies": replies,
    "pairs": pairs,
    "marked": marked,
    "rollouts": rollouts,
    "taught": taught,
}
"""Shape of a stage's batches (`TrainingStage.rows`) -> a lawful batch of so many units."""


@dataclass(frozen=True)
class Case:
    """A stage of a kind, with a name that says how it differs from the defaults."""

    name: str
    config: TrainingStage

    @property
    def objective(self) -> Objective:
        return PHASES[self.config.kind].objective(self.config)

    def batch(self, rng: Generator, units: int) -> Batch:
        return BATCHES[self.config.rows](rng, units)


def cases(kind: str) -> list[Case]:
    """The stage's defaults; each other choice that it offers; and all of these with numbers that are not the defaults."""
    stage = PHASES[kind].stage
    plain: dict[str, Any] = {
        name: "other" for name, field in stage.model_fields.items() if field.is_required()
    }
    plain |= {"kind": kind, "steps": 1}
    chosen = {kind: plain}
    chosen |= {f"{kind}, {name} {value}": {**plain, name: value} for name, value in _choices(stage)}
    chosen |= {f"{name}, other numbers": _moved(stage, fields) for name, fields in chosen.items()}
    different: dict[str, Case] = {}
    for name, fields in chosen.items():
        if (config := _stage(stage, fields)) is not None:
            case = Case(name, config)
            different.setdefault(repr(sorted(vars(case.objective).items())), case)
    return list(different.values())


def _stage(stage: type[TrainingStage], fields: dict[str, Any]) -> TrainingStage | None:
    try:
        return stage.model_validate(fields)
    except ValidationError:  # a combination that the stage refuses
        return None


def _own(stage: type[TrainingStage]) -> Iterator[tuple[str, Any]]:
    """The fields that the kind has beside those of every phase."""
    yield from (
        (name, field) for name, field in stage.model_fields.items() if name not in TrainingStage.model_fields
    )


def _choices(stage: type[TrainingStage]) -> Iterator[tuple[str, Any]]:
    for name, field in _own(stage):
        values = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
        if field.annotation is bool:
            values = (True, False)
        yield from ((name, value) for value in values if name != "kind" and value != field.default)


def _moved(stage: type[TrainingStage], fields: dict[str, Any]) -> dict[str, Any]:
    """`fields` with each of the kind's own numbers at a value that it does not have by default, where the stage takes one."""
    for name, field in _own(stage):
        numbers = {field.annotation, *get_args(field.annotation)} & {float}
        for value in (0.3, 0.7) if numbers else ():
            moved = {**fields, name: value}
            if value != field.default and _stage(stage, moved) is not None:
                fields = moved
                break
    return fields


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


def gradient(objective: Objective, *micro: Batch) -> Tensor:
    """As the loop does it: sums over micro-batches, one denominator known beforehand."""
    model = Bigram()
    weight = torch.stack([objective.weight(batch) for batch in micro]).sum().clamp_min(1)
    total = torch.stack([objective(model(batch), batch).total / weight for batch in micro]).sum()
    [found] = torch.autograd.grad(total, [model.table], allow_unused=True, materialize_grads=True)
    return found


def loss(objective: Objective, batch: Batch) -> Loss:
    return objective(Bigram()(batch), batch)


def rows(batch: Any, index: Any) -> Batch:
    return {name: value[index] for name, value in batch.items()}  # type: ignore[return-value]


def micro_batches_leave_gradient_and_metrics(case: Case, rng: Generator, units: int) -> None:
    objective, batch = case.objective, case.batch(rng, units)
    unit = batch.get("pair", torch.arange(len(batch["tokens"])))  # the rows of a pair stay together
    part_of = {number: int(rng.integers(0, 3)) for number in unit.tolist()}
    part = torch.tensor([part_of[number] for number in unit.tolist()])
    micro = [rows(batch, part == number) for number in range(3) if (part == number).any()]
    torch.testing.assert_close(gradient(objective, *micro), gradient(objective, batch))
    for name, (total, weight) in loss(objective, batch).metrics.items():
        pieces = [loss(objective, piece).metrics[name] for piece in micro]
        torch.testing.assert_close(torch.stack([piece[0] for piece in pieces]).sum(), total)
        assert torch.stack([piece[1] for piece in pieces]).sum() == weight


def permuted_rows_leave_loss_and_gradient(case: Case, rng: Generator, units: int) -> None:
    objective, batch = case.objective, case.batch(rng, units)
    shuffled = rows(batch, torch.from_numpy(rng.permutation(len(batch["tokens"]))))
    torch.testing.assert_close(loss(objective, shuffled).total, loss(objective, batch).total)
    torch.testing.assert_close(gradient(objective, shuffled), gradient(objective, batch))
    assert objective.weight(shuffled) == objective.weight(batch)


def padding_leaves_loss_and_gradient(case: Case, rng: Generator, units: int) -> None:
    objective, batch = case.objective, case.batch(rng, units)
    extra, longer = int(rng.integers(1, 6)), dict(batch)
    for name, value in batch.items():
        assert isinstance(value, Tensor)
        if value.dim() > 1:  # the places are the second axis
            longer[name] = torch.cat([value, value.new_zeros(value.shape[0], extra, *value.shape[2:])], 1)
    padded: Any = longer
    torch.testing.assert_close(gradient(objective, padded), gradient(objective, batch))
    assert objective.weight(padded) == objective.weight(batch)


def packed_rows_leave_the_gradient(case: Case, rng: Generator, units: int) -> None:
    """Where a unit is one token of a row of several documents; else a row is one reply by definition."""
    objective, batch = case.objective, case.batch(rng, units)
    if set(batch) != {"tokens", "targets", "loss_mask"}:
        return
    packed: Any = {name: value.reshape(1, -1) for name, value in batch.items()}  # type: ignore[attr-defined]
    torch.testing.assert_close(gradient(objective, packed), gradient(objective, batch))


def a_masked_target_changes_nothing(case: Case, rng: Generator, units: int) -> None:
    objective, batch = case.objective, case.batch(rng, units)
    other = torch.from_numpy(rng.integers(0, VOCABULARY, tuple(batch["targets"].shape)))
    changed: Any = batch | {"targets": batch["targets"].where(batch["loss_mask"] > 0, other)}
    assert torch.equal(loss(objective, changed).total, loss(objective, batch).total)
    torch.testing.assert_close(gradient(objective, changed), gradient(objective, batch), rtol=0, atol=1e-15)


def an_impossible_masked_target_changes_nothing(case: Case, rng: Generator, units: int) -> None:
    """Probability zero (-inf) where nothing is learned must not become 0 x inf = NaN."""
    objective, batch = case.objective, case.batch(rng, units)
    out = Output(*(None if x is None else x.detach() for x in Bigram()(batch)))
    assert out.logp is not None
    holed = out.logp.where(batch["loss_mask"] > 0, -math.inf).requires_grad_()
    result = objective(out._replace(logp=holed), batch)
    assert torch.equal(result.total, objective(out, batch).total)
    if result.total.requires_grad:  # not where the log-probability is not read
        [slope] = torch.autograd.grad(result.total, [holed], allow_unused=True, materialize_grads=True)
        assert slope.isfinite().all() and (slope[batch["loss_mask"] == 0] == 0).all()


def all_masked_is_a_finite_zero(case: Case, rng: Generator, units: int) -> None:
    objective, batch = case.objective, case.batch(rng, units)
    batch["loss_mask"] = torch.zeros_like(batch["loss_mask"])
    result = loss(objective, batch)
    assert result.total == 0 and objective.weight(batch) == 0
    assert torch.equal(gradient(objective, batch), torch.zeros(VOCABULARY, VOCABULARY, dtype=torch.float64))
    assert all(total == 0 and weight == 0 for total, weight in result.metrics.values())


def weights_are_counts_and_metrics_are_detached(case: Case, rng: Generator, units: int) -> None:
    objective, batch = case.objective, case.batch(rng, units)
    learned = batch["loss_mask"].sum(-1).tolist()
    replied = [float(count > 0) for count in learned]
    expected = sum(learned if objective.unit == "token" else replied)
    if objective.unit == "pair":
        whole: dict[int, float] = {}
        for pair, reply in zip(batch["pair"].tolist(), replied, strict=True):
            whole[pair] = whole.get(pair, 0) + reply
        expected = sum(count == 2 for count in whole.values())
    assert objective.weight(batch) == expected
    result = loss(objective, batch)
    assert result.metrics["loss"][1] == expected
    if "log_z" not in objective.wants:  # `loss` is then the part that runs without it are compared by
        assert result.metrics["loss"][0] == result.total
    assert not any(total.requires_grad for total, _ in result.metrics.values())
    assert all(0 <= weight <= max(expected, sum(learned)) for _, weight in result.metrics.values())


def inputs_are_left_alone(case: Case, rng: Generator, units: int) -> None:
    objective, batch = case.objective, case.batch(rng, units)
    before: Any = {name: value.clone() for name, value in batch.items()}  # type: ignore[attr-defined]
    loss(objective, batch)
    assert all(torch.equal(batch[name], value) for name, value in before.items())  # type: ignore[literal-required]


LAWS: tuple[Callable[[Case, Generator, int], None], ...] = (
    micro_batches_leave_gradient_and_metrics,
    permuted_rows_leave_loss_and_gradient,
    padding_leaves_loss_and_gradient,
    packed_rows_leave_the_gradient,
    a_masked_target_changes_nothing,
    an_impossible_masked_target_changes_nothing,
    all_masked_is_a_finite_zero,
    weights_are_counts_and_metrics_are_detached,
    inputs_are_left_alone,
)


def laws(*kinds: str, examples: int = 25) -> Callable[..., None]:
    """A pytest test that tries every law on every case of the kinds, which are rows of the table or of an installed package.
    `examples`: of each, drawn."""

    @pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
    @pytest.mark.parametrize(
        "case", [case for kind in kinds for case in cases(kind)], ids=lambda case: case.name
    )
    @settings(max_examples=examples, deadline=None)
    @given(rng=RNG, units=st.integers(1, 6))
    def test_law(case: Case, law: Callable[..., None], rng: Generator, units: int) -> None:
        law(case, rng, units)

    checked: Callable[..., None] = test_law
    return checked
