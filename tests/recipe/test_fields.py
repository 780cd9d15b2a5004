"""Laws over all fields of all models that a recipe is made of."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pydantic import Field

from trivium.errors import RecipeError
from trivium.recipe import models
from trivium.recipe.alignment import GrpoStage, PpoStage
from trivium.recipe.base import Strict
from trivium.recipe.load import loads

assert models.Recipe  # which imports every model


def subclasses(model: type[Strict]) -> Iterator[type[Strict]]:
    for child in model.__subclasses__():
        yield child
        yield from subclasses(child)


def other_meanings(model: type[Strict]) -> list[str]:
    """Fields that `model` declares again with another help text than its base has."""
    bases = [base for base in model.__mro__[1:] if issubclass(base, Strict)]
    known = {name: field for base in reversed(bases) for name, field in base.model_fields.items()}
    return [
        name
        for name in model.__annotations__
        if name in model.model_fields and name in known and known[name].description
        if model.model_fields[name].description not in (None, known[name].description)
    ]


MODELS = sorted(set(subclasses(Strict)), key=lambda model: model.__qualname__)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_no_subclass_gives_a_field_another_meaning(model):
    assert other_meanings(model) == []


def test_another_meaning_is_seen():
    class Other(PpoStage):
        max_grad_norm: float = Field(0.2, description="how far the policy may move")

    assert other_meanings(Other) == ["max_grad_norm"]


@pytest.mark.parametrize("stage", [PpoStage, GrpoStage])
def test_the_gradient_and_the_ratio_are_cut_by_fields_of_their_own(stage):
    config = stage.model_validate(
        {"kind": stage.model_fields["kind"].annotation.__args__[0], "init": "a", "data": "b", "steps": 1}
    )
    assert (config.max_grad_norm, config.clip_epsilon) == (1.0, 0.2)


@pytest.mark.parametrize(
    ("old", "now"),
    [
        ("clip", "`clip` is now `clip_epsilon` and `max_grad_norm`; "),
        ("clip_high", "`clip_high` is now `clip_epsilon_high`; "),
        ("correction", "`correction` is now `importance_weight_cap`; "),
        ("sampler", "`sampler` is now `rollout_server`; "),
    ],
)
def test_names_of_before_are_understood(old, now):
    text = "name: a\nstages:\n  b: {kind: grpo, init: c, data: d, steps: 1, %s: 2}\n"
    with pytest.raises(RecipeError) as caught:
        loads(text % old)
    assert caught.value.fix.startswith(now)
