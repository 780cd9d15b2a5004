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
TIMES = st.sampled_from(
    ["2026-01-01T00:00:00+00:00", "2026-01-01T00:00:00.985+00:00", "2026-01-01T02:00:00Z", "noon"]
)


@st.composite
def told(draw: Any) -> list[bytes]:
    """Lines of steps: all with the same keys, or some that are others, or cut."""
    keys = draw(st.permutations(["time", "event", "step", "stage", *draw(st.sets(st.sampled_from("abc,")))]))
    of = {
        "time": TIMES,
        "event": st.just("step"),
        "step": st.integers(1, 10**6),
        "stage": st.sampled_from(["base", "sft", "ünï", 'a "b"']),
    }
    lines = []
    for _ in range(draw(st.integers(1, 12))):
        event = {key: draw(of.get(key, VALUES)) for key in keys}
        odd = draw(st.integers(0, 40))
        if odd == 0:
            event[keys[-1]] = draw(st.sampled_from(["text", "1, 2", True, {"a": 1}, [1], None]))
        if odd == 1:
            del event[keys[0]]
        line = json.dumps(event).encode()
        lines.append(line[:-3] if odd == 2 else line[:-1] if odd == 3 else line)
    return lines


def arrow(lines: list[bytes]) -> Any:
    pytest.importorskip("pyarrow")
    return steps._lines(b"".join(line + b"\n" for line in lines))


def same(one: steps.Steps, other: steps.Steps) -> None:
    assert one.line.tolist() == other.line.tolist()
    assert [one.stages[nth] for nth in one.stage] == [other.stages[nth] for nth in other.stage]
    for name in {*one.numbers, *other.numbers}:
        nothing = np.full(len(one.line), np.nan)
        np.testing.assert_allclose(
            one.numbers.get(name, nothing), other.numbers.get(name, nothing), rtol=1e-12
        )


@given(told())
def test_law_arrow_reads_what_python_reads_or_leaves_it(lines: list[bytes]) -> None:
    found = steps._alike(arrow(lines))
    if found is not None:
        same(found, steps._python(lines))


@given(told(), st.integers(1, 5))
def test_law_lines_of_several_kinds_are_read_in_their_order(lines: list[bytes], few: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(steps, "FEW", few)
        same(steps.columns(arrow(lines)), steps._python(lines))


def test_what_a_loop_writes_is_a_table() -> None:
    event = {"time": "2026-01-01T00:00:00.5+00:00", "event": "step", "step": 1, "loss": 2, "mfu": None}
    lines = [json.dumps({**event, "step": n, "loss": n / 3, "stage": "base"}).encode() for n in range(9)]
    lines[3] = lines[3].replace(b"null", b"1e-05")
    found = steps._alike(arrow(lines))
    assert found is not None and found.stages == ["base"]
    assert found.numbers["loss"].tolist() == [n / 3 for n in range(9)]
    assert np.isnan(found.numbers["mfu"]).tolist() == [n != 3 for n in range(9)]
    assert found.numbers["time"].tolist() == [1767225600.5] * 9


@given(
    told(),
    st.lists(
        st.tuples(st.integers(0, 12), st.sampled_from([b"", b"{", b'{"event": "run_end"}'])), max_size=4
    ),
)
def test_law_arrow_parts_the_lines_as_python_does(
    lines: list[bytes], others: list[tuple[int, bytes]]
) -> None:
    for nth, line in others:
        lines.insert(nth, line)
    data = b"".join(line + b"\n" for line in lines)
    plain = steps.read(data)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(steps, "FEW", 1)
        by_arrow = steps.read(data)
    same(by_arrow[0], plain[0])
    assert [(n, line.strip()) for n, line in by_arrow[1]] == [(n, line.strip()) for n, line in plain[1]]
    assert by_arrow[2] == plain[2]


def test_a_server_can_warm_up() -> None:
    steps.warm_up()
