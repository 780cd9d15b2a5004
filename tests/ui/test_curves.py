"""The options of a chart, without a browser."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trivium.report.runs import Series, Stage

pytest.importorskip("nicegui")
from trivium.ui.curves import chart, measure


def drawn(axis: str, **more: Any) -> dict[str, Any]:
    series = Series()
    series.add(np.array([1.0, 2.0, 4.0]), np.array([60.0, 120.0, 240.0]), np.array([3.0, -2.0, 1.0]))
    stage = Stage("base", tokens_per_step=10.0, curves={"loss": series}, **more)
    log = axis == "log"
    return chart(
        [("loss", series, stage)], "loss", scale=2.0, axis="step" if log else axis, smoothing=0.0, log=log
    )


@pytest.mark.parametrize(
    ("axis", "places"),
    [("step", [1, 2, 4]), ("tokens", [10, 20, 40]), ("flops", [1e9, 2e9, 4e9]), ("time", [0, 1, 3])],
)
def test_a_curve_stands_where_the_axis_says(axis: str, places: list[float]) -> None:
    options = drawn(axis, flops_per_step=1e9)
    assert options["series"][0]["data"] == [[x, y] for x, y in zip(places, (6.0, -4.0, 2.0), strict=True)]


def test_what_a_log_does_not_tell_is_said_and_not_made_up() -> None:
    options = drawn("flops")
    assert options["series"][0]["data"] == [] and "nothing over FLOPs" in options["title"]["text"]


def test_a_logarithmic_axis_leaves_out_what_it_cannot_show() -> None:
    assert drawn("log")["series"][0]["data"] == [[1, 6], [4, 2]]


def test_held_out_curves_stand_in_the_chart_of_their_measure() -> None:
    assert [measure(name) for name in ("loss", "held-out loss", "held-out loss of books")] == ["loss"] * 3
