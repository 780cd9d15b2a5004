"""Rungs lie below the recipe's own run and are legal recipes; the largest is predicted by the others."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivium.errors import RecipeError
from trivium.pipeline.ladder import SHARES, base_of, climb, narrowed, rungs
from trivium.plan.fit import Point
from trivium.plan.scaling import Law
from trivium.recipe.load import loads
from trivium.recipe.network import ModelShape

RECIPE = """
name: tiny
stages:
  corpus: {kind: data, sources: [{kind: python-docs}]}
  vocab: {kind: tokenizer, data: corpus, vocab_size: 300}
  base: {kind: pretrain, data: corpus, tokenizer: vocab, model: {dim: 256, heads: 4, kv_heads: 2, layers: 2, context: 64},
    tokens: 8M}
"""


def test_every_rung_is_a_recipe_below_the_whole() -> None:
    recipe = loads(RECIPE)
    found = rungs(recipe)
    assert len(found) == len(set(found)) == len(SHARES) ** 2
    for overrides in (found[0], found[-1]):
        _, small = base_of(loads(RECIPE, overrides))
        assert small.model.dim < 256 and small.tokens < 8_000_000
        assert small.model.dim % small.model.heads == 0 and small.model.layers == 2
    assert base_of(loads(RECIPE, found[-1]))[1].tokens == 4_000_000


@given(st.integers(1, 64), st.integers(1, 16), st.sampled_from(SHARES))
def test_a_narrowed_model_is_legal(width: int, heads: int, share: float) -> None:
    shape = dict(narrowed(ModelShape(dim=width * heads * 2, heads=heads, hidden=width * 8), share))
    assert shape["dim"] % shape["heads"] == 0 and shape["heads"] % shape["kv_heads"] == 0
    assert (shape["dim"] // shape["heads"]) % 2 == 0 and shape["heads"] <= heads


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("tokens: 8M", "epochs: 1"), "does not say its tokens"),
        (("dim: 256, heads: 4, kv_heads: 2", "dim: 16, heads: 1"), "too narrow for a ladder"),
    ],
)
def test_what_has_no_rungs_is_told(change: tuple[str, str], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        rungs(loads(RECIPE.replace(*change)))
    base = RECIPE[RECIPE.index("  base:") :]
    with pytest.raises(RecipeError, match="2 stages could be climbed to"):
        base_of(loads(RECIPE + base.replace("base", "other")))


def test_the_largest_rung_is_held_out() -> None:
    law = Law("made up", floor=1.2, a=60.0, b=300.0, alpha=0.35, beta=0.4)
    ran: list[Sequence[str]] = []

    def run(overrides: Sequence[str]) -> Point:
        ran.append(overrides)
        values = dict(one.split("=") for one in overrides)
        size, tokens = float(values["base.model.dim"]) ** 2 * 24, float(values["base.tokens"])
        return Point(size, tokens, law.loss(size, tokens))

    climbed = climb(rungs(loads(RECIPE)), run, (256.0**2 * 24, 8e6))
    assert len(ran) == 9 and abs(climbed.off) < 0.005
    assert climbed.law.predict(*climbed.target)[1] == pytest.approx(law.loss(*climbed.target), rel=0.01)
    assert climbed.points[-1].loss == min(point.loss for point in climbed.points)
