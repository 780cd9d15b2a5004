"""The lines of a log that tell of training steps, as columns: there may be a hundred thousand, and a page waits for them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from itertools import compress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

STEP = b'"event": "step"'
"""What the line of a step holds, and no other: within a text, quotes are escaped."""
Floats = NDArray[np.float64]


FEW = 256
"""Lines that Python reads at once: Arrow is not worth its start."""


class Steps(NamedTuple):
    """The steps of a piece of a log, a row each."""

    line: NDArray[np.int64]
    """Which of the lines a row is: those that are no steps (cut by a kill) have none."""
    stage: NDArray[np.int64]
    """Which of `stages`."""
    stages: list[str]
    numbers: dict[str, Floats]
    """By name, NaN where a line lacks it; `time` in seconds since the epoch."""

    def part(self, rows: slice | NDArray[np.int64]) -> dict[str, Floats]:
        return {name: column[rows] for name, column in self.numbers.items()}


def warm_up() -> None:
    """Loads what reads long logs, where it is installed: a server does so before it is asked."""
    line = b'{"time": "2026-01-01T00:00:00+00:00", "event": "step", "stage": "", "step": 1}\n'
    read(line * (FEW + 1))


def read(data: bytes) -> tuple[Steps, list[tuple[int, bytes]], int]:
    """Whole lines of a log: its steps, its other lines each with the number of steps' lines before it, and that of them all."""
    lines = _lines(data) if data.count(b"\n") > FEW else None
    if lines is None:
        plain = data.splitlines()
        of_steps = np.array([STEP in line for line in plain], dtype=bool)
        steps = _python(list(compress(plain, of_steps)))
    else:
        import pyarrow.compute as pc

        plain = lines
        found = pc.match_substring(lines, STEP)
        of_steps = found.to_numpy(zero_copy_only=False)
        steps = columns(lines.filter(found))
    others = np.flatnonzero(~of_steps)
    texts = [plain[nth] for nth in others.tolist()]
    told = [text if isinstance(text, bytes) else text.as_py() for text in texts]
    return (
        steps,
        list(zip((others - np.arange(len(others))).tolist(), told, strict=True)),
        int(of_steps.sum()),
    )


def _lines(data: bytes) -> Any:
    """The lines with their ends, as an array that looks into `data`: a hundred thousand objects less. None without Arrow."""
    try:
        import pyarrow as pa
    except ImportError:
        return None
    starts = np.append(0, np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n")) + 1)
    buffers = [None, pa.py_buffer(starts), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.large_binary(), len(starts) - 1, buffers)


def columns(lines: Any) -> Steps:
    """The steps that an array of lines tells of.

    A loop writes the same keys in the same order: such lines are a table whose cells end at commas, and Arrow reads it in a
    tenth of the time that JSON takes. What holds lines of several kinds is halved until they are.
    """
    if len(lines) <= FEW:
        return _python(lines.to_pylist())
    found = _alike(lines)
    if found is not None:
        return found
    half = len(lines) // 2
    return _joined(columns(lines[:half]), columns(lines[half:]), half)


def _joined(first: Steps, second: Steps, lines: int) -> Steps:
    stages = list(dict.fromkeys([*first.stages, *second.stages]))
    there = np.array([stages.index(name) for name in second.stages], dtype=np.int64)
    missing = [np.full(len(part.line), np.nan) for part in (first, second)]
    return Steps(
        np.concatenate([first.line, second.line + lines]),
        np.concatenate([first.stage, there[second.stage]]),
        stages,
        {
            name: np.concatenate([first.numbers.get(name, missing[0]), second.numbers.get(name, missing[1])])
            for name in dict.fromkeys([*first.numbers, *second.numbers])
        },
    )


def _alike(lines: Any) -> Steps | None:
    """Lines that all have the keys of the first one; None where there is another among them."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import csv

    first = lines[0].as_py()
    event = parsed(first)
    if event is None or not _is_step(event) or first.count(b",") != len(event) - 1:
        return None
    _, starts, text = lines.buffers()
    bounds = np.frombuffer(starts, np.int64)[lines.offset : lines.offset + len(lines) + 1]
    before = [f"{' ' if nth else '{'}{json.dumps(key)}: ".encode() for nth, key in enumerate(event)]
    names = [str(nth) for nth in range(len(event))]
    nulls = [f"{start.decode()}null" for start in before]
    nulls[-1] += "}"
    try:
        table = csv.read_csv(
            pa.BufferReader(text[int(bounds[0]) : int(bounds[-1])]),
            read_options=csv.ReadOptions(column_names=names, use_threads=False),
            parse_options=csv.ParseOptions(quote_char=False, double_quote=False, ignore_empty_lines=False),
            convert_options=csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.binary()), null_values=nulls, strings_can_be_null=True
            ),
        )
        made: dict[str, Any] = {}
        for nth, (key, example) in enumerate(event.items()):
            cells = table[names[nth]]
            if nth == len(event) - 1:
                if not _all(pc.ends_with(cells, b"}")):  # a null with its brace is one already
                    return None
                cells = _cut(cells, 0, -1)
            if not _all(pc.starts_with(cells, before[nth])):
                return None
            values = _cut(cells, len(before[nth]))
            if isinstance(example, str):
                if not _all(pc.and_(pc.starts_with(values, b'"'), pc.ends_with(values, b'"'))):
                    return None
                made[key] = values
            elif isinstance(example, bool):
                if not _all(pc.is_in(values, pa.array([b"true", b"false"]))):
                    return None
            elif example is None or is_number(example):
                if values.null_count < len(values):
                    made[key] = values.cast(pa.string()).cast(pa.float64())
            else:
                return None
        stages = made.pop("stage").combine_chunks().dictionary_encode()
        times = made.pop("time", None)
        numbers = {key: column.to_numpy() for key, column in made.items() if column.type == pa.float64()}
        numbers["time"] = np.full(len(lines), np.nan) if times is None else _moments(times)
        told = [json.loads(name) for name in stages.dictionary.to_pylist()]
    except ValueError:  # Arrow's, or of a text
        return None
    missing = stages.null_count or made["event"].null_count or np.isnan(numbers["step"]).any()
    if table.num_rows != len(lines) or missing:
        return None
    return Steps(np.arange(len(lines)), stages.indices.to_numpy().astype(np.int64), told, numbers)


def _all(found: Any) -> bool:
    """Of all that is not null."""
    import pyarrow.compute as pc

    return bool(pc.all(found, min_count=0).as_py())


def _cut(cells: Any, start: int, stop: int = 1 << 30) -> Any:
    import pyarrow.compute as pc

    return pc.binary_slice(cells, start, stop)  # without a stop it fails in pyarrow 25


def _moments(cells: Any) -> Floats:
    import pyarrow as pa

    when = _cut(cells, 1, -1).cast(pa.string()).cast(pa.timestamp("us", "UTC"))
    seconds: Floats = when.cast(pa.int64()).to_numpy() / 1e6
    return seconds


def _python(lines: Sequence[bytes]) -> Steps:
    told = [(nth, event) for nth, event in enumerate(map(parsed, lines)) if event and _is_step(event)]
    events = [event for _, event in told]
    names = dict.fromkeys(name for event in events for name, value in event.items() if is_number(value))
    made = {name: np.array([_number(event.get(name)) for event in events]) for name in names}
    made["time"] = np.array([_number(seconds(event)) for event in events])
    stages = list(dict.fromkeys(event["stage"] for event in events))
    of = np.array([stages.index(event["stage"]) for event in events], dtype=np.int64)
    return Steps(np.array([nth for nth, _ in told], dtype=np.int64), of, stages, made)


def parsed(line: bytes) -> dict[str, Any] | None:
    """An event; None for a line that is none."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and isinstance(event.get("event"), str) else None


def seconds(event: dict[str, Any]) -> float | None:
    """When it was, since the epoch."""
    try:
        return datetime.fromisoformat(event["time"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return None


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: Any) -> float:
    return float(value) if is_number(value) else np.nan


def _is_step(event: dict[str, Any]) -> bool:
    return isinstance(event.get("stage"), str) and is_number(event.get("step"))
