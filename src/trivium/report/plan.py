"""A plan for a cluster as one HTML page without scripts or links to elsewhere: timeline, memory, roofline, cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment

from trivium.plan.bands import Band
from trivium.plan.hardware import Accelerator
from trivium.plan.operations import operations
from trivium.plan.project import Phase, Project
from trivium.plan.search import ROOM
from trivium.recipe.units import show_count

GIB = 2**30
WIDTH, HEIGHT = 440, 260
COLOURS = {
    "weights": "#1f4e8c",
    "gradients": "#4a7fc1",
    "optimizer": "#8fb3df",
    "activations": "#c0392b",
    "logits": "#e08a5f",
    "buffers": "#7f8c8d",
    "frozen": "#8e6bb0",
    "cache": "#2e8b57",
}


class Bar(NamedTuple):
    """A part of a bar: from, to (shares of the whole width, percent), colour, what it says."""

    start: float
    width: float
    colour: str
    title: str


class Row(NamedTuple):
    name: str
    bars: list[Bar]
    said: str


def html(found: Project) -> str:
    """The page."""
    template = (Path(__file__).parent / "plan.html.j2").read_text(encoding="utf-8")
    counted = [phase for phase in found.phases if phase.hours.expected]
    main = max((p for p in counted if p.found), key=lambda p: p.hours.expected * p.devices, default=None)
    return (
        Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
        .from_string(template)
        .render(
            project=found,
            heads=HEADINGS,
            rows=[*(row(phase, found) for phase in counted), ("all", *whole(found))],
            timeline=_timeline(counted),
            memory=_memory(found),
            room=100 * ROOM,
            cost=_cost(counted),
            roof=None if main is None else _roof(main, found.cluster.accelerator),
            main="" if main is None else main.stage,
            size=(WIDTH, HEIGHT),
            colours=COLOURS,
            doubts=list(dict.fromkeys(str(doubt) for phase in found.phases for doubt in phase.doubts)),
            left=[(phase.stage, phase.note) for phase in found.phases if not phase.hours.expected],
        )
    )


HEADINGS = ("stage", "time", "devices", "compute", "data", "output", "US dollars", "kWh", "share")


def row(phase: Phase, found: Project) -> tuple[str, ...]:
    """The line that practitioners know: duration, compute, data, output, cost, share of the total."""
    cost = phase.cost
    flops = "" if cost is None or cost.flops is None else f"{cost.flops:.3g} FLOP"
    tokens, parameters = (
        ("" if value is None else show_count(value))
        for value in ((cost.tokens, cost.parameters) if cost else (None, None))
    )
    trains = phase.found is not None
    return (
        phase.stage,
        span(phase.hours),
        f"{phase.devices:,}",
        flops,
        f"{tokens} tokens" if tokens else "",
        f"{parameters} parameters"
        if trains and parameters
        else "figures"
        if phase.kind == "evaluate"
        else "",
        amount(phase.dollars),
        amount(phase.energy),
        f"{phase.hours.expected / found.hours.expected:.0%}",
    )


def whole(found: Project) -> tuple[str, ...]:
    """The last line: what all phases come to."""
    work, tokens = (
        sum(getattr(phase.cost, what) or 0 for phase in found.phases if phase.cost)
        for what in ("flops", "tokens")
    )
    return (
        span(found.hours),
        "",
        f"{work:.3g} FLOP",
        f"{show_count(tokens)} tokens",
        "",
        amount(found.dollars),
        amount(found.energy),
        "",
    )


def _timeline(counted: Sequence[Phase]) -> list[Row]:
    """Phases one after the other, as expected; the lighter part ends where the band does."""
    reach = (sum(phase.hours.expected for phase in counted) or 1.0) + max(
        (p.hours.high - p.hours.expected for p in counted), default=0.0
    )
    rows, at = [], 0.0
    for phase in counted:
        expected, high = phase.hours.expected, phase.hours.high
        bars = [
            Bar(100 * at / reach, 100 * expected / reach, "#1f4e8c", "as expected"),
            Bar(100 * (at + expected) / reach, 100 * (high - expected) / reach, "#c9d8ec", "at the high end"),
        ]
        rows.append(Row(phase.stage, bars, span(phase.hours)))
        at += expected
    return rows


def _memory(found: Project) -> list[Row]:
    """Bytes of each device by cause; the whole width is the device."""
    rows, there = [], found.cluster.accelerator.memory
    for phase in found.phases:
        if phase.found is None:
            continue
        bars, at = [], 0.0
        for cause, size in phase.found.winner.memory.parts().items():
            bars.append(
                Bar(100 * at / there, 100 * size / there, COLOURS[cause], f"{cause} {size / GIB:.1f} GiB")
            )
            at += size
        rows.append(Row(phase.stage, bars, f"{at / GIB:.1f} of {there / GIB:.0f} GiB; {phase.found.winner}"))
    return rows


def _cost(counted: Sequence[Phase]) -> list[Row]:
    priced = [(phase, phase.dollars) for phase in counted if phase.dollars is not None]
    most = max((dollars.high for _, dollars in priced), default=0.0) or 1.0
    return [
        Row(
            phase.stage,
            [
                Bar(0, 100 * dollars.expected / most, "#2e8b57", "expected"),
                Bar(
                    100 * dollars.expected / most,
                    100 * (dollars.high - dollars.expected) / most,
                    "#bfe0cd",
                    "high",
                ),
            ],
            amount(dollars),
        )
        for phase, dollars in priced
    ]


def _roof(phase: Phase, device: Accelerator) -> Mapping[str, Any]:
    """The roofline of `device` in a picture, and the operations of `phase` on it. Axes are logarithmic."""
    assert phase.found is not None and phase.config is not None
    points = operations(phase.config, device, phase.found.winner.shape)
    low, high = -1.0, 4.5  # powers of ten, FLOP for a byte
    top = math.log10(device.peak) + 0.2
    bottom = top - 4.5

    def x(intensity: float) -> float:
        return 60 + (min(max(math.log10(intensity), low), high) - low) / (high - low) * (WIDTH - 76)

    def y(rate: float) -> float:
        return (
            HEIGHT - 36 - (min(max(math.log10(rate), bottom), top) - bottom) / (top - bottom) * (HEIGHT - 56)
        )

    places = [(x(one.intensity), y(one.rate)) for one in points]
    ridge = device.peak / device.bandwidth
    corners = [(10**low, 10**low * device.bandwidth), (ridge, device.peak), (10**high, device.peak)]
    return {
        "line": " ".join(f"{x(i):.1f},{y(rate):.1f}" for i, rate in corners),
        "points": [
            {
                "x": place[0],
                "y": place[1],
                "number": number,
                "name": one.name,
                "rate": f"{one.rate / 1e12:,.3g}",
                "intensity": f"{one.intensity:,.3g}",
                "bound": "arithmetic" if one.intensity > ridge else "memory",
            }
            for number, (one, place) in enumerate(zip(points, places, strict=True), 1)
        ],
        "labels": labels(places),
        "ticks": [(x(10.0**power), f"{10.0**power:g}") for power in range(-1, 5)],
        "rates": [
            (y(10.0**power), f"{10.0**power / 1e12:g}") for power in range(math.ceil(bottom), int(top) + 1)
        ],
    }


class Label(NamedTuple):
    """Text with its lower left corner."""

    text: str
    x: float
    y: float

    def meets(self, x0: float, y0: float, x1: float, y1: float) -> bool:
        """Whether it lies over a rectangle."""
        width = LETTER * len(self.text)
        return self.x < x1 and x0 < self.x + width and self.y - LINE < y1 and y0 < self.y


LETTER, LINE, DOT = 7.0, 11.0, 5.0
"""Pixels: a letter's width, its height, and half of what a point takes."""


def labels(places: Sequence[tuple[float, float]]) -> list[Label]:
    """The numbers of points, from 1, beside them: points that touch share a label. Labels lie over no point and no label."""
    groups: list[list[int]] = []
    for number, (x, y) in enumerate(places):
        touching = [
            group
            for group in groups
            if any(math.hypot(x - places[one][0], y - places[one][1]) < 2 * DOT for one in group)
        ]
        groups = [group for group in groups if group not in touching]
        groups.append(sorted([number, *(one for group in touching for one in group)]))
    found: list[Label] = []
    for group in groups:
        text = ", ".join(str(one + 1) for one in group)
        left, right = min(places[one][0] for one in group) - DOT, max(places[one][0] for one in group) + DOT
        top, foot = min(places[one][1] for one in group) - DOT, max(places[one][1] for one in group) + DOT
        width = LETTER * len(text)
        under = min(max(60, (left + right - width) / 2), WIDTH - width)  # or over; on the page
        tried = [
            Label(text, x, y)
            for away in range(1, 12)
            for x, y in (
                (under, foot + LINE + 3 * away),
                (right + 3 * away, (top + foot + LINE) / 2),
                (left - width - 3 * away, (top + foot + LINE) / 2),
                (under, top - 3 * away),
            )
            if 60 <= x <= WIDTH - width
        ]
        taken = [(x - DOT, y - DOT, x + DOT, y + DOT) for x, y in places]
        taken += [(one.x, one.y - LINE, one.x + LETTER * len(one.text), one.y) for one in found]
        free = [label for label in tried if not any(label.meets(*box) for box in taken)]
        found.append((free or tried)[0])
    return found


def span(hours: Band) -> str:
    """`1.2 h (0.9 – 1.8)`, in the unit that fits."""
    for unit, size in (("d", 24.0), ("h", 1.0), ("min", 1 / 60), ("s", 1 / 3600)):
        if hours.expected >= size * (2 if unit == "d" else 1) or unit == "s":
            break
    low, expected, high = (f"{value / size:,.3g}" for value in (hours.low, hours.expected, hours.high))
    return f"{expected} {unit} ({low} – {high})"


def amount(band: Band | None) -> str:
    if band is None:
        return "not known"
    low, expected, high = (_round(value) for value in (band.low, band.expected, band.high))
    return f"{expected} ({low} – {high})"


def _round(value: float) -> str:
    if value >= 1e6:
        return show_count(float(f"{value:.2g}"))
    return f"{float(f'{value:.2g}'):,.0f}" if value >= 10 else f"{value:.2g}"
