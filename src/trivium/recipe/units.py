"""The one place where quantities with a unit are read: counts (`3M`) and durations (`5min`)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, PlainSerializer

_COUNTS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def parse_count(value: Any) -> Any:
    """`3M` -> 3000000; also K, B, T and plain whole numbers. ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("write a whole number such as 250000, 250K, 3M or 1.5B")  # noqa: TRY004 (for pydantic)
    match = re.fullmatch(
        r"(\d+(?:\.\d+)?(?:[eE]\+?\d+)?)\s*([KMBTkmbt]?)", str(value).strip().replace("_", "")
    )
    number = float(match[1]) * _COUNTS[match[2].upper()] if match else 0.5
    if number != int(number):
        raise ValueError(f"{value!r} is no count; write a whole number such as 250000, 250K, 3M or 1.5B")
    return int(number)


def parse_duration(value: Any) -> Any:
    """`5min` -> 300.0 seconds; also s, h, d. ValueError for a number without a unit."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|h|d)", str(value).strip())
    if not match:
        raise ValueError(f"{value!r} is no duration; write a number with its unit, such as 30s, 5min or 2h")
    return float(match[1]) * _SECONDS[match[2]]


@dataclass(frozen=True)
class Interval:
    """How often something is done: every so many seconds (`s`) or optimizer steps (`steps`)."""

    every: float
    unit: Literal["s", "steps"]

    def __str__(self) -> str:
        return f"{self.every:.0f} steps" if self.unit == "steps" else f"{self.every:f}s"


def parse_interval(value: Any) -> Any:
    """`200 steps` or a duration such as `5min`. ValueError for a number without a unit, and for no steps."""
    if isinstance(value, Interval):
        return value
    if match := re.fullmatch(r"(\d+)\s*steps?", str(value).strip()):
        if int(match[1]) == 0:
            raise ValueError("0 steps is no interval; write at least `1 step`")
        return Interval(int(match[1]), "steps")
    try:
        return Interval(parse_duration(value), "s")
    except ValueError as error:
        raise ValueError(f"{error}, or steps such as 200 steps") from None


def show_count(value: float) -> str:
    """5900000 -> `5.9M`."""
    for suffix, size in (("T", 10**12), ("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if abs(value) >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"


Every = Annotated[
    Interval,
    BeforeValidator(parse_interval, json_schema_input_type=str),
    PlainSerializer(str, when_used="json"),
]
Count = Annotated[int, BeforeValidator(parse_count, json_schema_input_type=int | str)]
Seconds = Annotated[
    float,
    BeforeValidator(parse_duration, json_schema_input_type=str),
    PlainSerializer(
        lambda seconds: f"{seconds:f}s", when_used="json"
    ),  # so that a recipe written down can be read again
]
