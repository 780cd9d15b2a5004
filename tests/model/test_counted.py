"""Leaving out what does not count changes nothing that does: log-probabilities and gradients of the plain pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trivium.batches.pairs import Pairs
from trivium.batches.rows import collate, sequence_row
from trivium.model.config import ModelConfig
from trivium.model.counted import plan
from trivium.model.transformer import Transformer
from trivium.text.chat import Encoded


@pytest.fixture
def network():
    config = ModelConfig(
        vocab_size=50, dim=32, layers=2, heads=4, kv_heads=2, head_dim=8, hidden=48, context=64
    )
    made = Transformer(config)
    made.initialise(torch.Generator().manual_seed(0))
    return made


def pairs(count: int) -> Pairs:
    """Prompts and replies of many lengths; replies that begin alike, one that is the beginning of the other."""
    rng = np.random.default_rng(3)
    made = Pairs(48, 0)
    for number in range(count):
        prompt = rng.integers(1, 50, rng.integers(1, 12)).tolist()
        chosen = rng.integers(1, 50, rng.integers(1, 20)).tolist()
        rejected = rng.integers(1, 50, rng.integers(1, 20)).tolist()
        if number % 3 == 1:
            rejected = [*chosen[:4], *rejected]
        if number % 3 == 2:
            rejected = chosen[: 1 + len(chosen) // 2]
        sides = [
            Encoded([*prompt, *reply], [False] * len(prompt) + [True] * len(reply))
            for reply in (chosen, rejected)
        ]
        made.pairs.append((sides[0], sides[1]))
    return made


def gradients(model, logp):
    model.zero_grad()
    (logp * torch.linspace(0.5, 1.5, logp.numel()).view_as(logp)).sum().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def held(model, batch):
    mask = batch["loss_mask"] > 0
    plain = model.outputs(model.states(batch), batch, {"logp"}).logp.where(mask, 0.0)
    expected = gradients(model, plain)
    found = model(batch, {"logp"}).logp
    torch.testing.assert_close(found, plain, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(gradients(model, found), expected, atol=1e-5, rtol=1e-4)


def test_pairs_share_their_prompt(network):
    held(network, collate(pairs(12).item, range(12)))


def test_packed_rows(network):
    segments = [Encoded(list(range(1, n)), [i % 2 == 0 for i in range(1, n)]) for n in (9, 14, 6)]
    rows = [sequence_row(segments[:many], 40, 0) for many in (1, 3, 2)]
    held(network, collate(lambda i: [rows[i]], range(3)))


def test_short_documents_are_laid_into_shorter_rows(network):
    rng = np.random.default_rng(1)
    rows = []
    for _ in range(3):
        sizes = rng.integers(3, 20, 6)
        segments = [Encoded(rng.integers(1, 50, n).tolist(), (rng.random(n) < 0.6).tolist()) for n in sizes]
        rows.append(sequence_row(segments, 120, 0))
    batch = collate(lambda i: [rows[i]], range(3))
    held(network, batch)
    assert plan(batch, share=False).tokens.shape[1] == 32


def test_fewer_places_are_computed(network):
    seen = []
    network.model.layers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[:2]))
    made = pairs(6)
    batch = collate(made.item, range(6))
    network(batch, {"logp"})
    longest = max(len(a.ids) + len(b.ids) for a, b in made.pairs)
    assert seen[0][0] == 6  # one row a pair
    assert seen[0][1] < longest  # the prompt once


def test_nothing_that_counts(network):
    batch = collate(pairs(2).item, range(2))
    batch["loss_mask"] = torch.zeros_like(batch["loss_mask"])
    assert not network(batch, {"logp"}).logp.any()
