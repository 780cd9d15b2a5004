"""A log is read as it grows, whatever a kill left of it; what is drawn of it keeps every spike."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trivium.report.curves import POINTS, smoothed, thinned
from trivium.report.runs import EVENTS, RunLog, differences, glance, runs
from trivium.report.steps import read

NOON = "2026-01-01T12:00:{:02d}+00:00"


def event(event: str, /, **fields: Any) -> str:
    return json.dumps({"time": NOON.format(fields.get("step", 0) % 60), "event": event, **fields}) + "\n"


def training(steps: int, start: int = 1, **more: Any) -> list[str]:
    about = {"stage": "base", "kind": "pretrain", "fingerprint": "f" * 64}
    lines = [event("stage_start", **about, reasons=["never run"], resumes=start > 1)]
    lines += [
        event("step", stage="base", step=n, steps=9, loss=10.0 / n, lr=1e-3) for n in range(start, steps + 1)
    ]
    return lines


def log(folder: Path, lines: list[str]) -> RunLog:
    run = folder / "demo"
    run.mkdir(exist_ok=True)
    with (run / EVENTS).open("a") as file:
        file.write("".join(lines))
    return RunLog(run)


GRAPH = {"base": {"kind": "pretrain", "inputs": ["corpus"], "config": {"lr": 1}}}
START = event("run_start", recipe="demo", stages=["corpus", "base"], graph=GRAPH)


def test_a_log_that_is_read_in_pieces_tells_what_it_tells_in_one(tmp_path):
    lines = [START, *training(9), event("validation", stage="base", loss=2.0, sources={"web": {"loss": 3.0}})]
    lines.append(event("stage_end", stage="base", seconds=4.0, metrics={"steps": 9}))
    text = "".join(lines)
    pieces = log(tmp_path, [])
    for end in range(0, len(text) + 50, 50):
        (pieces.folder / EVENTS).write_text(text[:end])
        pieces.refresh()
    whole = RunLog(pieces.folder)
    whole.refresh()
    assert pieces.stages == whole.stages
    base = whole.stages["base"]
    assert (base.status, base.inputs, base.config) == ("done", ("corpus",), {"lr": 1})
    assert list(base.curves["loss"].values) == [10.0 / n for n in range(1, 10)]
    assert list(base.curves["held-out loss of web"].values) == [3.0]
    assert not whole.refresh()


def test_a_first_look_at_a_long_log_tells_some_steps_and_reading_it_tells_all(tmp_path, monkeypatch):
    for name, size in (("TAIL", 1000), ("PIECES", 8), ("PIECE", 400)):
        monkeypatch.setattr(f"trivium.report.runs.{name}", size)
    long = log(tmp_path, [START, *training(900), event("stage_end", stage="base", seconds=4.0, metrics={})])
    long.look()
    looked = long.stages["base"]
    seen = np.array(looked.curves["loss"].steps)
    assert long.partly and 20 < len(seen) < 100 and np.all(np.diff(seen) > 0)
    assert seen[0] == 1 and seen[-1] == 900 and np.all(np.histogram(seen, 8, (0, 900))[0])
    assert np.allclose(looked.curves["loss"].values, 10.0 / seen)
    assert (looked.status, looked.config) == ("done", {"lr": 1})
    assert long.refresh() and not long.partly
    whole = RunLog(long.folder)
    whole.refresh()
    assert long.stages == whole.stages and long.read == whole.read
    long.look()
    assert not long.partly and not long.refresh()


def test_a_short_log_is_not_looked_at_in_pieces(tmp_path):
    short = log(tmp_path, [START, *training(9)])
    short.look()
    assert not short.partly and short.refresh()


def test_a_resumed_stage_does_its_steps_once(tmp_path):
    read = log(
        tmp_path,
        [
            START,
            *training(6),
            event("stage_failed", stage="base", error="killed"),
            START,
            *training(9, start=5),
        ],
    )
    read.refresh()
    assert list(read.stages["base"].curves["loss"].steps) == list(range(1, 10))
    assert read.stages["base"].status == "running"


def test_a_stage_made_anew_forgets_the_old_curves(tmp_path):
    read = log(tmp_path, [START, *training(6), START, *training(3)])
    read.refresh()
    assert list(read.stages["base"].curves["loss"].steps) == [1, 2, 3]


def test_lines_that_are_no_events_are_counted_and_cost_nothing_else(tmp_path):
    read = log(tmp_path, [START, '{"event": "st\n', "[1, 2]\n", "\x00\x00\n", *training(2)])
    read.refresh()
    assert read.unread == 3 and read.stages["base"].step == 2


def test_a_glance_says_where_a_run_stands_and_that_a_silent_one_was_killed(tmp_path):
    read = log(tmp_path, [START, *training(4)])
    seen = glance(read.folder)
    assert (seen.state, seen.stage, seen.step, seen.steps, seen.loss) == ("killed", "base", 4, 9, 2.5)
    log(tmp_path, [event("stage_failed", stage="base", error="no")])
    assert glance(read.folder).state == "failed"
    log(tmp_path, [event("run_end", seconds=1)])
    assert glance(read.folder).state == "done"
    assert runs(tmp_path) == [read.folder]


def test_what_differs_is_named_by_its_path():
    left, right = {"a": {"lr": 1, "same": 2}, "b": 1}, {"a": {"lr": 3, "same": 2}, "c": [1]}
    assert list(differences(left, right)) == [("a.lr", 1, 3), ("b", 1, None), ("c", None, [1])]


@given(st.integers(0, 5000), st.integers(0, 2**31))
def test_a_thinned_curve_is_part_of_the_curve_and_keeps_its_extremes(count, seed):
    y = np.random.default_rng(seed).standard_normal(count)
    x = np.arange(count, dtype=float)
    few, values = thinned(x, y)
    assert len(few) <= POINTS and np.array_equal(values, y[few.astype(int)])
    assert np.all(np.diff(few) > 0)
    if count:
        assert values.min() == y.min() and values.max() == y.max()


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50), st.floats(0, 0.99))
def test_a_smoothed_curve_starts_at_its_first_value_and_stays_within(values, weight):
    y = np.array(values)
    out = smoothed(y, weight)
    assert out[0] == y[0] or np.isclose(out[0], y[0])
    room = 1e-9 * (1 + abs(y).max())
    assert np.all(out >= np.minimum.accumulate(y) - room) and np.all(out <= np.maximum.accumulate(y) + room)
    assert np.allclose(smoothed(np.full(9, 3.0), weight), 3.0)


steps = st.lists(
    st.fixed_dictionaries(
        {"step": st.integers(1, 20), "stage": st.sampled_from(["base", "chat"])},
        optional={
            "loss": st.floats(-1e3, 1e3) | st.integers(-9, 9) | st.none(),
            "mfu": st.none() | st.floats(0, 1),
            "flag": st.booleans(),
        },
    ),
    max_size=30,
)


@given(steps, st.booleans())
def test_columns_of_steps_are_the_lines_whoever_reads_them(told, cut):
    lines = [
        json.dumps({"time": NOON.format(n), "event": "step", **one}).encode() for n, one in enumerate(told)
    ]
    if cut and lines:
        lines[0] = lines[0][:-4]
    columns, _, _ = read(b"".join(line + b"\n" for line in lines))
    stages, found = [columns.stages[nth] for nth in columns.stage], columns.numbers
    kept = told[1:] if cut else told
    assert stages == [one["stage"] for one in kept]
    for name in ("step", "loss", "mfu"):
        right = [float("nan") if one.get(name) is None else float(one[name]) for one in kept]
        np.testing.assert_array_equal(found.get(name, np.full(len(kept), np.nan)), right)
    assert "flag" not in found and len(found["time"]) == len(kept)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=40), st.integers(1, 40))
def test_steps_told_again_count_once_however_the_log_is_read(told, size):
    """Read in pieces of any size, the curve is what came last of each step, and nothing behind a step that was done again."""
    with tempfile.TemporaryDirectory() as folder:
        read = log(Path(folder), [START])
        for at in range(0, len(told), size):
            log(
                Path(folder),
                [event("step", stage="base", step=n, steps=12, loss=float(n)) for n in told[at : at + size]],
            )
            read.refresh()
    right: list[int] = []
    for step in told:
        right = [*(n for n in right if n < step), step]
    assert list(read.stages["base"].curves["loss"].steps) == right
    assert read.stages["base"].step == told[-1]
