"""Arrow and Python read the same of a log's steps."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivium.report import steps

VALUES = st.none() | st.integers(-(10**6), 10**6) | st.floats(allow_nan=False, allow_infinity=False, width=32)
EVENTS = st.builds(
    lambda stage, step, more: {
        "time": f"2026-01-01T00:00:{step % 60:02d}+00:00",
        "event": "step",
        "step": step,
        **({} if stage is None else {"stage": stage}),
        **more,
    },
    st.sampled_from(["base", "sft", "ünï", None]),
    st.integers(1, 10**6),
    st.dictionaries(st.sampled_from(["loss", "lr", "grad_norm"]), VALUES),
)


@given(st.lists(EVENTS, min_size=1, max_size=20))
def test_law_arrow_reads_what_python_reads(events: list[dict[str, Any]]) -> None:
    pytest.importorskip("pyarrow")
    lines = [json.dumps(event).encode() for event in events]
    stages, numbers = steps._python(lines)
    found = steps._arrow(lines)
    if found is None:  # not for Arrow: a step without a stage
        assert any("stage" not in event for event in events)
        return
    assert found[0] == stages
    for name, values in numbers.items():
        np.testing.assert_allclose(found[1][name], values, rtol=1e-12)


def test_a_server_can_warm_up() -> None:
    steps.warm_up()
