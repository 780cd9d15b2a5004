"""Texts that share a beginning are scored as each would be alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from random_models import random_model

from trivium.generate import scoring
from trivium.generate.scoring import Asked, score

TOKEN = st.integers(0, 5)
TEXTS = st.lists(
    st.tuples(st.integers(0, 3), st.lists(TOKEN, min_size=1, max_size=6), st.integers(1, 30)),
    min_size=1,
    max_size=8,
)
BEGINNINGS = [[], [1, 2, 3] * 5, [1, 2, 3] * 5 + [4] * 9, [2] * 20]


def texts(drawn) -> list[Asked]:
    """Of a few beginnings, so that many share one; scored from anywhere."""
    whole = [(BEGINNINGS[begin] + end + [0], start) for begin, end, start in drawn]
    return [Asked(ids, min(start, len(ids))) for ids, start in whole]


@torch.no_grad()
def alone(model, asked: Asked) -> tuple[float, bool]:
    tokens = torch.tensor([list(asked.ids)])
    hidden = model.hidden(tokens, torch.arange(len(asked.ids))[None], None)
    logp = F.linear(hidden, model.output_weight).double().log_softmax(-1)[0]
    places = range(asked.start, len(asked.ids))
    return sum(float(logp[k - 1, asked.ids[k]]) for k in places), all(
        int(logp[k - 1].argmax()) == asked.ids[k] for k in places
    )


MODELS = {"plain": random_model(seed=1), "windowed": random_model(seed=2, window=16)}


@pytest.mark.parametrize("name", MODELS)
@given(TEXTS)
@settings(max_examples=25, deadline=None)
def test_each_is_scored_as_if_it_were_alone(name, drawn):
    model, asked = MODELS[name].eval(), texts(drawn)
    for found, one in zip(score(model, asked), asked, strict=True):
        logp, greedy = alone(model, one)
        assert found.logp == pytest.approx(logp, abs=1e-4)
        assert found.greedy == greedy


@given(TEXTS, st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None)
def test_order_changes_nothing(drawn, random):
    asked = texts(drawn)
    order = random.sample(range(len(asked)), len(asked))
    straight, mixed = score(MODELS["plain"], asked), score(MODELS["plain"], [asked[n] for n in order])
    for place, number in enumerate(order):
        assert mixed[place].logp == pytest.approx(straight[number].logp, abs=1e-4)


def test_a_shared_beginning_is_read_once(monkeypatch):
    read = []
    hidden = MODELS["plain"].hidden
    monkeypatch.setattr(
        MODELS["plain"], "hidden", lambda tokens, *more: read.append(tokens.numel()) or hidden(tokens, *more)
    )
    asked = [Asked([*BEGINNINGS[1], n, n, n, 0], 15) for n in range(4)]
    score(MODELS["plain"], asked)
    assert sum(read) == len(BEGINNINGS[1]) + 4 * 3


def test_a_text_of_which_nothing_can_be_scored_is_refused():
    for ids, start in (([1], 1), ([1, 2], 0), ([1, 2], 3)):
        with pytest.raises(ValueError):
            score(MODELS["plain"], [Asked(ids, start)])
    assert scoring.score(MODELS["plain"], []) == []
