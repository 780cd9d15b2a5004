"""Rows and the order they come in: pure in (seed, step), nothing lost, nothing twice."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trivium.batches.mixed import Mixed, Span, plan
from trivium.batches.rows import BatchSharding, Fixed, Shuffled, collate, sequence_row

PAD = 1
SEGMENTS = st.lists(
    st.lists(st.tuples(st.integers(2, 99), st.booleans()), min_size=1, max_size=6), min_size=1, max_size=5
)


@given(SEGMENTS, st.integers(0, 4))
def test_a_row_is_its_segments_and_padding(segments, spare):
    pieces = [([i for i, _ in segment], [learn for _, learn in segment]) for segment in segments]
    used = sum(map(len, segments))
    row = sequence_row(pieces, used + spare, PAD)
    assert {value.shape for value in row.values()} == {(used + spare,)}
    assert row["tokens"].tolist() == [i for ids, _ in pieces for i in ids] + [PAD] * spare
    assert row["doc_id"].tolist() == [n for n, (ids, _) in enumerate(pieces) for _ in ids] + [-1] * spare
    assert row["positions"].tolist()[:used] == [place for ids, _ in pieces for place in range(len(ids))]
    # what is learnt: each segment's learnable tokens but its first, each at the place before it
    learnt, expected = [], []
    for place in np.flatnonzero(row["loss_mask"]):
        assert row["doc_id"][place] == row["doc_id"][place + 1]
        assert row["targets"][place] == row["tokens"][place + 1]
        learnt.append(int(place) + 1)
    start = 0
    for _, learn in pieces:
        expected += [start + place for place, wanted in enumerate(learn) if wanted and place > 0]
        start += len(learn)
    assert learnt == expected


def test_segments_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="segments of 5 tokens do not fit a row of 4"):
        sequence_row([([1, 2, 3], [True] * 3), ([4, 5], [True] * 2)], 4, PAD)


def numbers(index):
    """Item i is the one row [i]."""
    return [{"tokens": np.array([index], dtype=np.int64)}]


def seen(batches) -> list[int]:
    return [int(value) for batch in batches for value in batch["tokens"].flatten()]


@given(
    seed=st.integers(0, 99),
    count=st.integers(1, 20),
    share=st.sampled_from([(6, 1), (6, 2), (6, 3), (6, 6)]),
    asked=st.permutations(range(8)),
)
def test_a_batch_is_pure_in_seed_and_step(seed, count, share, asked):
    def make() -> Shuffled:
        return Shuffled(count, numbers, BatchSharding(seed, share[0], share[1]))

    in_order = make()
    expected = [seen(in_order.batch(step)) for step in range(8)]
    jumping = make()
    assert {step: seen(jumping.batch(step)) for step in asked} == dict(enumerate(expected))
    # every item exactly once per epoch, also where an epoch ends inside a step
    stream = [item for step in expected for item in step]
    for start in range(0, len(stream) - count + 1, count):
        assert sorted(stream[start : start + count]) == list(range(count))


def test_the_order_changes_with_epoch_and_seed():
    stream = seen(Shuffled(32, numbers, BatchSharding(0, 64, 64)).batch(0))
    other = seen(Shuffled(32, numbers, BatchSharding(1, 64, 64)).batch(0))
    assert stream[:32] != stream[32:] and stream != other and stream[:32] != sorted(stream[:32])


@given(
    seed=st.integers(0, 99),
    world=st.sampled_from([1, 2, 3, 4, 6, 12]),
    count=st.integers(1, 30),
    step=st.integers(0, 9),
)
def test_the_ranks_together_see_the_batch_of_one_rank(seed, world, count, step):
    alone = seen(Shuffled(count, numbers, BatchSharding(seed, 12, 12)).batch(step))
    ranks = [
        seen(Shuffled(count, numbers, BatchSharding(seed, 12, 1, rank, world)).batch(step))
        for rank in range(world)
    ]
    assert [item for rank in ranks for item in rank] == alone
    assert len({len(rank) for rank in ranks}) == 1


def learned(batches) -> list[int]:
    """The items that weigh something."""
    return [
        int(row)
        for batch in batches
        for row, mask in zip(batch["tokens"], batch["loss_mask"], strict=True)
        if mask.any()
    ]


def weighted(index):
    return [{"tokens": np.array([index]), "loss_mask": np.ones(1, np.float32), "doc_id": np.zeros(1, int)}]


@given(
    seed=st.integers(0, 99),
    count=st.integers(1, 50),
    epochs=st.sampled_from([1, 2, 3]),
    cut=st.sampled_from([(1, 12), (1, 4), (2, 3), (3, 1), (12, 1)]),
    several=st.booleans(),
)
def test_each_epoch_shows_each_item(seed, count, epochs, cut, several):
    """Also where the items are no whole number of batches, on any ranks, in any micro-batches, and with any sources."""
    world, micro = cut
    total = epochs * count
    steps = -(-total // 12)

    def make(rank: int):
        layout = BatchSharding(seed, 12, micro, rank, world, total)
        if not several:
            return Shuffled(count, weighted, layout)
        parts = [count - count // 3, count // 3]
        table = plan(parts, [Span(1.0, tuple(map(float, parts)))], total)
        return Mixed(parts, [weighted, lambda index: weighted(index + parts[0])], table, layout)

    ranks = [[make(rank).batch(step) for step in range(steps)] for rank in range(world)]
    shown = [item for step in range(steps) for rank in ranks for item in learned(rank[step])]
    assert len(shown) == total
    assert Counter(shown) == dict.fromkeys(range(count), epochs)
    assert {len(batch["tokens"]) for rank in ranks for step in rank for batch in step} == {micro}
    # a batch that was left out is made up for by one that comes after the last
    after = [item for rank in range(world) for item in learned(make(rank).batch(steps))]
    assert len(after) == min(12, total)


@pytest.mark.parametrize(("batch", "micro", "world"), [(4, 3, 1), (4, 4, 2), (5, 1, 2)])
def test_a_batch_that_does_not_divide_is_refused(batch, micro, world):
    with pytest.raises(ValueError, match="do not divide"):
        BatchSharding(0, batch, micro, 0, world)


@given(st.integers(1, 20), st.integers(1, 7))
def test_fixed_is_every_item_once_in_order_whatever_the_step(count, micro):
    fixed = Fixed(count, numbers, micro)
    assert seen(fixed.batch(0)) == seen(fixed.batch(5)) == list(range(count))
    assert max(len(batch["tokens"]) for batch in fixed.batch(0)) <= micro


def test_collate_stacks_the_rows_of_all_items():
    batch = collate(lambda index: numbers(index) + numbers(-index), [1, 2])
    assert torch.equal(batch["tokens"], torch.tensor([[1], [-1], [2], [-2]]))
