"""The mix: every batch a pure function of (seed, step); shares exact; each epoch of a source shows each row once."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trivium.batches.mixed import BLOCK, Mixed, Span, block_of, plan, tempered
from trivium.batches.rows import BatchSharding
from trivium.errors import DataError

COUNTS = st.lists(st.integers(1, 60), min_size=1, max_size=5)


def item(source: int):
    return lambda index: [{"tokens": np.array([source, index])}]


def mixed(counts, spans, rows, layout, max_epochs=None) -> Mixed:
    table = plan(counts, spans, rows, max_epochs)
    return Mixed(counts, [item(source) for source in range(len(counts))], table, layout)


@st.composite
def mixes(draw):
    counts = draw(COUNTS)
    weights = draw(st.lists(st.floats(0.01, 9), min_size=len(counts), max_size=len(counts)))
    return counts, [Span(1.0, tuple(weights))], draw(st.integers(1, 400))


@settings(max_examples=60)
@given(mixes(), st.integers(0, 9), st.sampled_from([(1, 1), (1, 2), (2, 1), (2, 3), (3, 2), (6, 1), (1, 6)]))
def test_the_batch_is_the_same_for_any_ranks_and_micro_batches(mix, seed, cut):
    counts, spans, steps = mix
    world, micro = cut

    def seen(world: int, micro: int, step: int) -> list[list[int]]:
        batches = [
            mixed(counts, spans, 6 * steps, BatchSharding(seed, 6, micro, rank, world)).batch(step)
            for rank in range(world)
        ]
        return torch.cat([part["tokens"] for rank in batches for part in rank]).tolist()

    for step in {0, steps // 2, steps - 1}:
        assert seen(world, micro, step) == seen(1, 6, step)


@settings(max_examples=60)
@given(mixes(), st.integers(0, 9))
def test_a_step_does_not_depend_on_those_before_it(mix, seed):
    counts, spans, steps = mix
    steps = min(steps, 40)
    layout = BatchSharding(seed, 4, 4)
    onward = mixed(counts, spans, 4 * steps, layout)
    forth = [onward.places(step) for step in range(steps)]
    back = mixed(counts, spans, 4 * steps, layout)
    assert [back.places(step) for step in reversed(range(steps))] == forth[::-1]


@settings(max_examples=60)
@given(mixes(), st.integers(0, 9))
def test_shares_are_those_planned_and_every_epoch_shows_each_row_once(mix, seed):
    counts, spans, rows = mix
    batches = mixed(counts, spans, rows, BatchSharding(seed, 1, 1))
    places = [batches.place(position) for position in range(rows)]
    drawn = Counter(source for source, _ in places)
    shares = np.asarray(spans[0].weights) / sum(spans[0].weights)
    for source, count in enumerate(counts):
        assert drawn[source] == batches.table[-1, source]
        assert abs(drawn[source] - rows * shares[source]) <= max(1, len(counts) / 2)
        mine = [number for one, number in places if one == source]
        for start in range(0, len(mine), count):
            epoch = mine[start : start + count]
            assert len(set(epoch)) == len(epoch)


@given(
    st.lists(st.integers(1, 10**7), min_size=1, max_size=6).flatmap(
        lambda counts: st.tuples(
            st.just(counts),
            st.lists(
                st.floats(0, 1, allow_subnormal=False), min_size=len(counts), max_size=len(counts)
            ).filter(any),
        )
    ),
    st.integers(1, 60_000),
)
def test_long_runs_keep_their_shares_at_every_block(mix, rows):
    counts, weights = mix
    table = plan(counts, [Span(1.0, tuple(weights))], rows)
    shares = np.asarray(weights) / sum(weights)
    assert table[-1].sum() == rows and (np.diff(table, axis=0) >= 0).all()
    at = np.minimum(np.arange(len(table)) * block_of(rows), rows)
    assert np.abs(table - at[:, None] * shares).max() <= len(counts)
    assert (table[:, shares == 0] == 0).all()


@given(COUNTS, st.floats(0.5, 5), st.data())
def test_no_source_is_shown_more_often_than_it_may(counts, most, data):
    room = sum(int(count * most) for count in counts)
    if not room:
        return
    rows = data.draw(st.integers(1, room))
    table = plan(counts, [Span(1.0, tuple(1.0 for _ in counts))], rows, most)
    assert table[-1].sum() == rows
    assert all(taken <= count * most for taken, count in zip(table[-1], counts, strict=True))
    with pytest.raises(DataError, match="may be shown"):
        plan(counts, [Span(1.0, tuple(1.0 for _ in counts))], room + 1, most)


def test_a_curriculum_changes_the_shares_on_its_way():
    spans = [Span(0.5, (1.0, 0.0)), Span(1.0, (0.25, 0.75))]
    table = plan([10**6, 10**6], spans, 100 * BLOCK)
    assert table[50].tolist() == [50 * BLOCK, 0]
    assert (table[100] - table[50]).tolist() == [12.5 * BLOCK, 37.5 * BLOCK]


def test_a_short_run_has_its_curriculum_too():
    spans = [Span(0.5, (1.0, 0.0)), Span(1.0, (0.0, 1.0))]
    assert plan([50, 50], spans, 160)[-1].tolist() == [80, 80]
    batches = mixed([50, 50], spans, 160, BatchSharding(0, 8, 8))
    assert {source for step in range(9) for source, _ in batches.places(step)} == {0}
    assert {source for step in range(11, 20) for source, _ in batches.places(step)} == {1}


def test_a_temperature_flattens_as_published():
    assert tempered([8, 1], 1) == pytest.approx((8 / 9, 1 / 9))
    assert tempered([9, 1], 2) == pytest.approx((3 / 4, 1 / 4))  # square roots: 3 to 1
    assert tempered([1, 0], 3) == (1, 0)
