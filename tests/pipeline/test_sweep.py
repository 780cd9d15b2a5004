"""Sweeps: the grid is whole and shares what it can, and a winner is one only if it is better by more than chance."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import command_line
import numpy as np
import pytest
from command_line import stand_in, trivium
from hypothesis import given, settings
from hypothesis import strategies as st

from trivium.errors import RecipeError, TrainingError
from trivium.pipeline.sweep import Found, Point, axes_of, cut, interval, outcome, points, verdict
from trivium.recipe.load import loads

RECIPE = f"seed: 3\n{command_line.RECIPE}"
plain = st.text(st.characters(codec="ascii", categories=["L", "N"], include_characters="-._"), min_size=1)


@settings(max_examples=30)
@given(st.lists(plain | st.lists(plain, min_size=1).map(lambda inner: f"[{','.join(inner)}]"), min_size=1))
def test_values_are_cut_where_they_were_joined(values: list[str]) -> None:
    assert cut(",".join(values)) == values


def test_values_in_quotes_are_one() -> None:
    assert cut("\"a,b\", 'c,]d',{x: [1,2], y: 3}") == ['"a,b"', "'c,]d'", "{x: [1,2], y: 3}"]


@pytest.mark.parametrize("given", [["base.lr=1,1"], ["base.lr=1,"], ["base.lr=1,2", "base.lr=3,4"]])
def test_a_value_that_is_given_twice_or_is_none_is_refused(given: list[str]) -> None:
    with pytest.raises(RecipeError, match="not each given once"):
        axes_of(given)


@settings(max_examples=30)
@given(
    st.lists(plain, min_size=2, max_size=4, unique=True),
    st.lists(plain, min_size=2, max_size=3, unique=True),
    st.integers(1, 3),
)
def test_the_grid_is_whole_and_every_run_has_a_name_of_its_own(
    one: list[str], other: list[str], seeds: int
) -> None:
    recipe = loads(RECIPE)
    found = points(recipe, ["base.batch=8"], {"more.lr": one, "more.warmup": other}, seeds)
    assert len({point.name for point in found}) == len(found) == len(one) * len(other) * seeds
    assert {tuple(point.values.values()) for point in found} == {(a, b) for a in one for b in other}
    for point in found:
        assert "base.batch=8" in point.overrides and len(point.name) <= 110
        assert not any(text.startswith(("base.seed", "corpus", "vocab")) for text in point.overrides)
        assert (f"more.seed={point.seed}" in point.overrides) == (seeds > 1)


def found(places: dict[str, list[float | None]]) -> list[Found]:
    return [
        Found(
            Point(f"r{x}{seed}", {"x": x}, seed, ()),
            {"base.loss": {"value": value, "low": None, "high": None}},
        )
        for x, values in places.items()
        for seed, value in enumerate(values)
    ]


scores = st.lists(st.floats(-100, 100), min_size=2, max_size=4)


@settings(max_examples=30)
@given(st.dictionaries(st.sampled_from("abc"), scores, min_size=1), st.floats(-50, 50))
def test_the_order_of_places_does_not_hang_on_where_zero_is(
    places: dict[str, list[float]], by: float
) -> None:
    first = outcome(found({x: list(v) for x, v in places.items()}), "base.loss")
    assert [place.mean for place in first] == sorted(place.mean for place in first)
    assert not first[0].beaten
    moved = outcome(found({x: [one + by for one in v] for x, v in places.items()}), "base.loss")
    for a, b in zip(first, moved, strict=True):
        assert math.isclose(a.mean + by, b.mean, abs_tol=1e-6)


def test_noise_has_a_winner_in_no_more_than_a_twentieth_of_all_sweeps() -> None:
    draw, wins = np.random.default_rng(0), 0
    for _ in range(200):
        shared = draw.normal(size=3)  # what a seed does to all places alike
        places = {x: [float(s + draw.normal()) for s in shared] for x in "abc"}
        wins += "wins" in verdict(outcome(found(places), "base.loss"), "base.loss")
    assert wins <= 200 * 0.05 + 3 * math.sqrt(200 * 0.05 * 0.95)


def test_what_is_better_by_far_wins_and_one_seed_never_does() -> None:
    apart = {"a": [1.0, 1.1, 0.9], "b": [9.0, 9.2, 9.1], "c": [5.0, 5.1, 5.2]}
    assert verdict(outcome(found(apart), "base.loss"), "base.loss").startswith("x=a wins")
    once = {x: values[:1] for x, values in apart.items()}
    assert "nobody knows" in verdict(outcome(found(once), "base.loss"), "base.loss")
    broken = outcome(found({"a": [None], "b": [math.nan]}), "base.loss")
    assert [place.mean for place in broken] == [None, None] and "no run" in verdict(broken, "base.loss")


@settings(max_examples=30)
@given(scores)
def test_an_interval_holds_its_mean(values: list[float]) -> None:
    low, high = interval(values, 0.95)
    assert low - 1e-9 <= sum(values) / len(values) <= high + 1e-9


class Fake:
    """A stage that counts what it made; training gets better with `lr`, and breaks above 1."""

    version = 1

    def __init__(self) -> None:
        self.ran: list[str] = []

    def identity(self, config: Any, recipe_folder: Path) -> dict[str, Any]:
        return {}

    def run(self, ctx: Any) -> dict[str, Any]:
        self.ran.append(ctx.name)
        for name in ("train.jsonl", "heldout.jsonl", "account.json"):
            (ctx.out / name).write_text("{}")
        if ctx.config.kind != "pretrain":
            return {"items": 1}
        if ctx.config.lr > 1:
            raise TrainingError("the loss is not finite")
        return {"after": {"loss": 1 - ctx.config.lr + 1e-4 * (ctx.config.seed or 0)}}


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    stage = Fake()
    stand_in(stage, RECIPE, tmp_path, monkeypatch)
    return stage


def test_a_sweep_makes_what_is_shared_once_and_again_nothing(
    fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("sweep", "tiny.yaml", "-o", "more.lr=0.1,0.2", "--seeds", "2", "--json")
    assert trivium(*command) == 0
    assert sorted(fake.ran) == ["base", "corpus", "more", "more", "more", "more", "vocab"]
    told = json.loads(capsys.readouterr().out)
    assert told["verdict"].startswith("more.lr=0.2 wins: more.loss")
    assert json.loads(Path("runs/tiny.sweep.json").read_text()) == told
    assert trivium(*command) == 0
    assert len(fake.ran) == 7
    assert trivium("sweep", "tiny.yaml", "-o", "more.lr=0.1,0.3", "--dry-run") == 0
    assert (
        "2 runs with 8 stages, of which 5 are different: 4 are there, 1 are to be made"
        in capsys.readouterr().out
    )
    assert len(fake.ran) == 7


def test_a_run_that_fails_leaves_the_others_and_what_it_broke_on_is_not_tried_again(
    fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trivium("sweep", "tiny.yaml", "-o", "base.lr=0.1,5", "-o", "more.lr=0.1,0.2", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert [bool(run["error"]) for run in told["runs"]] == [False, False, True, True]
    assert "failed before" in told["runs"][3]["error"] and fake.ran.count("base") == 2
    assert trivium("sweep", "tiny.yaml", "-o", "base.lr=6,7") == 1


def test_mistakes_are_found_before_anything_runs(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    assert trivium("sweep", "tiny.yaml", "-o", "base.lr=0.1,fast") == 2
    assert trivium("sweep", "tiny.yaml", "-o", "base.lr=0.1,0.2", "--by", "nothing.loss") == 2
    assert trivium("sweep", "tiny.yaml", "-o", "base.lr") == 2
    assert fake.ran == []
    assert trivium("sweep", "tiny.yaml", "-o", "base.lr=0.1,0.2", "--by", "more.wins") == 2
    assert "measured were: base.loss, more.loss" in capsys.readouterr().err
