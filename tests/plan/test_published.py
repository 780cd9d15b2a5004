"""The plan against runs that were published, as benchmarks/plan.py prints it: what the documentation promises."""

from __future__ import annotations

import math
import statistics
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivium.plan import flops

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
import plan as benchmark

RUNS: list[dict[str, Any]] = benchmark.published()["runs"]


def test_shapes_give_the_parameters_that_were_published() -> None:
    """What is computed from a shape is the model that was trained: within 5%, but for what Gopher's relative positions add."""
    for run in RUNS:
        if "shape" in run and run.get("left_out") != "low":
            found = flops.parameters(benchmark.config_of(run)) / run["parameters"]
            assert found == pytest.approx(1, abs=0.05 if run["id"] != "gopher-280b" else 0.1), run["id"]


def test_what_is_left_out_has_a_cause_and_nothing_low_is_used() -> None:
    causes = {"low", "circular", "hours of more", "work outside", "hours too few", "no shape"}
    sources = benchmark.published()["sources"]
    for run in RUNS:
        assert ("left_out" in run) == ("why" in run)
        assert run.get("left_out", "low") in causes
        assert {run["hours_source"], run["tokens_source"]} <= set(sources)
        assert run["accelerator"] in benchmark.hardware.accelerators()


def test_with_the_utilisation_given_the_median_error_is_under_a_tenth() -> None:
    points = benchmark.headline([benchmark.given(run) for run in RUNS if "quoted" in run])
    assert len(points) >= 8
    assert benchmark.error(points) <= 0.1


@pytest.mark.slow
def test_predicted_the_median_error_is_under_a_quarter_and_the_band_holds_four_in_five() -> None:
    bare = benchmark.bare_hours(RUNS)
    points = benchmark.headline(benchmark.predicted(bare))
    assert len(points) >= 40 and sum("experts" in point.run for point in points) >= 3
    assert benchmark.error(points) <= 0.25
    inner, outer = benchmark.frozen(bare)
    assert len(inner) + len(outer) == len(points) and min(len(inner), len(outer)) >= 15
    assert not {one.run["organisation"] for one in inner} & {one.run["organisation"] for one in outer}
    assert benchmark.error(outer) <= 0.25
    odd, even = benchmark.halves(bare)
    assert not {name for name, _ in odd} & {name for name, _ in even}
    for inside in (benchmark.held(points), benchmark.crossed(bare), odd + even):
        assert len(inside) == len(points) and 0.75 <= benchmark.covered(inside) <= 0.9


@pytest.mark.slow
def test_the_doubt_of_a_plan_is_what_the_published_runs_say() -> None:
    """`practice` and `goodput` joined have the ends of the shares of the roofline that runs reached, and their median."""
    shares = [share for _, share in benchmark.reached(benchmark.bare_hours(RUNS))]
    band = benchmark.doubts()["practice"].band * benchmark.doubts()["goodput"].band
    low, high = benchmark.ends(shares)
    assert (band.low, band.high) == pytest.approx((low, high), rel=0.03)
    assert band.expected == pytest.approx(statistics.median(shares), rel=0.03)


@given(st.lists(st.floats(0.01, 10.0), min_size=12, max_size=60, unique=True))
def test_the_ends_hold_four_in_five_of_what_is_drawn_with_them(shares: list[float]) -> None:
    """The law of split conformal prediction: over every choice of the one that is held out, at least 80% lie inside."""
    inside = 0
    for one in shares:
        low, high = benchmark.ends([other for other in shares if other != one])
        inside += low <= one <= high
    assert inside >= math.floor(0.8 * len(shares))
