"""Rows without their padding and pairs behind one prompt: the same numbers and gradients as the plain rectangle."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_models import random_model

from trivium.batches.rows import collate, sequence_row
from trivium.model.compact import compact

TIME, VOCABULARY = 24, 40


def rows(seed: int, count: int, paired: bool) -> dict[str, torch.Tensor]:
    """Rows of any length, some of several documents; or pairs, each with a prompt of its own length, in any order."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        head = rng.integers(0, VOCABULARY, rng.integers(0, 12)).tolist()
        for label in (1, 0) if paired else (1,):
            ids = [*head, *rng.integers(0, VOCABULARY, rng.integers(1, 12)).tolist()]
            learned = [False] * len(head) + [True] * (len(ids) - len(head))
            second = [] if paired or len(ids) > 20 else [(ids[:3], [True] * len(ids[:3]))]
            row = sequence_row([(ids, learned), *second], TIME, 0)
            if paired:
                row |= {"pair": np.int64(number), "label": np.int64(label), "prefix": np.int64(len(head))}
            made.append(row)
    if paired:  # what both begin with, by chance too, short of the last token of either
        for first, second in zip(made[::2], made[1::2], strict=True):
            shortest = min((row["doc_id"] >= 0).sum() for row in (first, second)) - 1
            same = (first["tokens"] == second["tokens"])[:shortest]
            shared = np.int64(shortest if same.all() else same.argmin())
            first["prefix"] = second["prefix"] = min(shared, first["prefix"])
    order = rng.permutation(len(made))
    return collate(lambda i: [made[i]], order.tolist())


@pytest.mark.parametrize("paired", [False, True])
@settings(max_examples=30)
@given(seed=st.integers(0, 2**20), count=st.integers(1, 7))
def test_nothing_but_rounding_changes(paired, seed, count):
    batch = rows(seed, count, paired)
    found = []
    for ragged in (False, True):
        model = random_model(VOCABULARY, context=TIME).double()
        model.ragged = ragged
        out = model(batch, {"logp", "entropy"})
        weight = torch.linspace(0.5, 1.5, batch["loss_mask"].numel()).view_as(batch["loss_mask"]).double()
        ((out.logp - 0.1 * out.entropy) * batch["loss_mask"] * weight).sum().backward()
        found.append((out, [p.grad for p in model.parameters()]))
    (plain, before), (short, after) = found
    on = batch["loss_mask"] > 0
    torch.testing.assert_close(short.logp[on], plain.logp[on])
    torch.testing.assert_close(short.entropy[on], plain.entropy[on])
    for ours, theirs in zip(after, before, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_prompt_is_laid_out_once_and_padding_not_at_all():
    prompt, replies = list(range(16)), ([20, 21, 22], [30, 31])
    both = [sequence_row([([*prompt, *reply], [True] * (16 + len(reply)))], 32, 0) for reply in replies]
    for row in both:
        row |= {"pair": np.int64(5), "prefix": np.int64(16)}
    layout = compact(collate(lambda i: [both[i]], range(2)), 64)
    assert layout is not None and layout.source.shape == (1, 32)
    sees = layout.mask[0, 0]
    assert sees[18, :19].all() and not sees[18, 19:].any()  # the first reply's end: prompt and itself
    assert sees[20, :16].all() and not sees[20, 16:19].any() and sees[20, 19:21].all()
    assert layout.back[1, :16].tolist() == layout.back[0, :16].tolist() == list(range(16))


def test_documents_of_a_packed_row_go_into_shorter_rows():
    """Attention costs the square of a row: eight documents of 16 tokens need no row of 128."""
    row = sequence_row([(list(range(16)), [True] * 16)] * 8, 128, 0)
    layout = compact(collate(lambda i: [row], range(2)), 8)
    assert layout is not None and layout.source.shape == (8, 32)
    own = torch.block_diag(torch.ones(16, 16), torch.ones(16, 16)).tril().bool()
    assert (layout.mask[:, 0] == own).all()


def test_full_rows_stay_as_they_are():
    row = sequence_row([(list(range(TIME)), [True] * TIME)], TIME, 0)
    assert compact(collate(lambda i: [row], [0, 0]), 64) is None


def test_a_window_of_attention_keeps_the_rectangle():
    batch = rows(1, 4, True)
    assert not random_model(VOCABULARY, context=TIME, window=8, windowed=frozenset({0}))._may_change_shape
    assert random_model(VOCABULARY, context=TIME)._may_change_shape
    assert compact(batch, 64) is not None
