"""Continuous batching: slots are a way to compute; the log-probabilities are those of a fresh pass."""

from __future__ import annotations

import pytest
import torch

from trivium.errors import DataError
from trivium.generate.engine import Sampling, complete, generate
from trivium.generate.sampling import distribution

PROMPTS = [[(7 * i + j) % 300 + 6 for j in range(1 + 5 * i % 23)] for i in range(11)]
DRAWN = Sampling(temperature=0.8, top_k=50, top_p=0.95, min_p=0.01, max_new_tokens=12, seed=3)


def test_slots_change_nothing_and_log_probs_are_those_of_a_fresh_pass(model):
    whole = complete(model, PROMPTS, DRAWN, range(0, 320, 6), slots=64)
    assert len({len(c.ids) for c in whole}) > 2, "sequences must leave at different times"
    for slots in (1, 3):
        assert [c.ids for c in complete(model, PROMPTS, DRAWN, range(0, 320, 6), slots=slots)] == [
            c.ids for c in whole
        ]
    for prompt, (ids, logp, finished) in zip(PROMPTS, whole, strict=True):
        assert finished == (ids[-1] % 6 == 0)
        tokens = torch.tensor([prompt + ids])
        with torch.no_grad():
            logits = model(
                {"tokens": tokens, "positions": torch.arange(tokens.shape[1])[None]}, {"logits"}
            ).logits
        fresh = logits[0, len(prompt) - 1 : -1].log_softmax(-1).gather(-1, torch.tensor(ids)[:, None])[:, 0]
        assert torch.allclose(torch.tensor(logp), fresh, atol=1e-4)


def test_greedy_is_generate_and_the_same_prompt_twice_draws_twice(model):
    greedy = Sampling(max_new_tokens=12)
    assert [c.ids for c in complete(model, PROMPTS, greedy, (), slots=4)] == generate(
        model, PROMPTS, greedy, ()
    )
    pair = complete(model, [PROMPTS[3]] * 2, DRAWN, ())
    assert pair[0].ids != pair[1].ids
    assert complete(model, [], DRAWN, ()) == []


@pytest.mark.parametrize("size", [0, 10**4])
def test_a_prompt_without_room_is_refused(model, size):
    with pytest.raises(DataError, match=f"prompt 1 has {size} tokens"):
        complete(model, [[1], [1] * size], DRAWN, ())


def test_filters_equal_those_of_transformers():
    warpers = pytest.importorskip("transformers.generation.logits_process")
    logits = torch.randn(8, 97, generator=torch.Generator().manual_seed(0)) * 3
    for warper, mine in (
        (warpers.TopKLogitsWarper(9), Sampling(1.0, top_k=9)),
        (warpers.TopPLogitsWarper(0.8), Sampling(1.0, top_p=0.8)),
        (warpers.MinPLogitsWarper(0.05), Sampling(1.0, min_p=0.05)),
    ):
        theirs = warper(None, logits.clone()).softmax(-1)
        ours = distribution(logits, mine)
        assert torch.allclose(ours / ours.sum(-1, keepdim=True), theirs, atol=1e-6)
