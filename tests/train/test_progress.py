"""What a run says of its speed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivium.batches.rows import collate, sequence_row
from trivium.train.progress import Progress


def progress(**changes):
    events = []
    fields = dict(peak=1.0, flops_per_step=0.0, live_flops=0.0, work=None, emit=events.append)
    made = Progress(SimpleNamespace(**{**fields, **changes}), {"step": 0, "curve": [], "compiled": False})
    return made, events


def test_padding_is_no_work():
    """Rows of 16 places with documents of 3 and 5, and of 4 tokens: 12 tokens, and 9 + 25 + 16 pairs of them."""
    rows = [sequence_row([([7] * n, [True] * n) for n in lengths], 16, pad=0) for lengths in ((3, 5), (4,))]
    counted, _ = progress(work=lambda tokens, squares: tokens + 1000 * squares, live_flops=0.5)
    counted.sees([collate(lambda index: [rows[index]], [index]) for index in (0, 1)])
    assert counted.work == 12 + 1000 * 50 + 0.5


@given(st.lists(st.floats(1e-3, 1e3), min_size=1), st.floats(1e-3, 1e3))
def test_utilisation_is_never_above_one(speeds, peak):
    """A peak that was measured while the machine had other work is raised, and that is said once."""
    run, events = progress(peak=peak)
    for speed in speeds:
        run.speeds.append(speed)
        assert 0 < run.utilisation() <= 1
    assert run.peak >= peak
    assert len(events) == (run.peak > peak)


def test_without_a_step_there_is_no_utilisation():
    assert progress()[0].utilisation() is None


@pytest.mark.parametrize("speed", [0.25, 0.5])
def test_utilisation_is_speed_over_peak(speed):
    run, _ = progress(peak=2.0)
    run.speeds = [speed] * 3 + [1.9]
    assert run.utilisation() == speed / 2
