"""The plan against runs that were published, as benchmarks/plan.py prints it: what the documentation promises."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

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
    assert 0.7 <= benchmark.covered(points) <= 0.9
    inner, outer, inside = benchmark.frozen(bare)
    assert len(inner) + len(outer) == len(points) and min(len(inner), len(outer)) >= 15
    assert not {one.run["organisation"] for one in inner} & {one.run["organisation"] for one in outer}
    assert benchmark.error(outer) <= 0.35 and inside >= 0.5
