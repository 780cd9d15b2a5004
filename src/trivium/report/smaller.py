"""What smaller models cost: a row for each full model and for each output of a `quantize`, `prune` or `export` stage, and their
size against their divergence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from trivium.recipe.suite import megabytes
from trivium.recipe.suites import ALWAYS_MEASURED, metric_named

SMALLER = [
    "file", "size", "bits/weight", "bits/byte", "KL", "KL 99%", "same top", "tasks", "tokens/s", "memory", "formats",
]  # fmt: skip
EXPLAINED = (
    "Each file was loaded again and measured against the model that it was made from, token by token on held-out data. tasks: "
    "the mean of the shares that evaluations found of all these models, turned so that more is better, and the points more or "
    "less than the full model's. tokens/s: of one client, by our engine, GGUF files by llama.cpp unless it says otherwise; "
    "memory: what that took at most, beyond the program itself."
)


class SmallerLine(NamedTuple):
    name: str
    """The stage, and the type where its name does not hold it."""
    size: str
    bits: str
    loss: str
    """Bits per byte, and how many more than the full model's."""
    kl: str
    kl_p99: str
    same: str
    tasks: str
    speed: str
    memory: str
    mix: str
    """Formats that a GGUF file really holds, and whether calibration chose the roundings."""


def smaller_lines(report: Mapping[str, Any]) -> list[SmallerLine]:
    """Every full model before its outputs, in the order of the recipe; a dash where the stage had no `data` to measure on."""
    tasks, of = _tasks(report), dict[str, list[SmallerLine]]()
    for stage, entry in report["smaller"].items():
        model = entry["model"]
        if model not in of:
            of[model] = [_line(f"{model}, full", entry["full"], tasks.get(model), None)]
        alone = len(entry["outputs"]) == 1
        for kind, output in entry["outputs"].items():
            found = tasks.get(stage) if alone else None
            of[model].append(_line(_name(stage, kind), output, found, tasks.get(model)))
    return [line for group in of.values() for line in group]


def _name(stage: str, kind: str) -> str:
    return stage if kind.lower().replace("-", "_") in stage.replace("-", "_") else f"{stage} {kind}"


def _line(name: str, output: Mapping[str, Any], tasks: float | None, before: float | None) -> SmallerLine:
    more = "bits_per_byte_increase" in output
    mix = ", ".join(f"{count} {form}" for form, count in output.get("mix", {}).items())
    by = " (torch)" if output.get("mix") and output.get("engine") == "torch" else ""
    return SmallerLine(
        name,
        megabytes(output["bytes"]),
        f"{output['bits_per_weight']:.2f}",
        _number(output, "bits_per_byte", "{:.4f}")
        + (_number(output, "bits_per_byte_increase", " ({:+.4f})") if more else ""),
        _number(output, "kl", "{:.5f}"),
        _number(output, "kl_p99", "{:.4f}"),
        _number(output, "top1_agreement", "{:.1%}"),
        "–" if tasks is None else f"{tasks:.1%}" + ("" if before is None else f" ({100 * (tasks - before):+.1f})"),
        _number(output, "tokens_per_second", "{:,.0f}") + by,
        "–" if output.get("peak_memory") is None else megabytes(output["peak_memory"]),
        mix + (" (calibrated)" if output.get("calibrated") else ""),
    )  # fmt: skip


def _tasks(report: Mapping[str, Any]) -> dict[str, float]:
    """Stage -> the mean of the shares that were measured of all full models and outputs that were evaluated at all, turned so
    that more is better."""
    names = {name for stage, entry in report["smaller"].items() for name in (stage, entry["model"])}
    shares = {
        model: {
            name: one["value"] if metric_named(name).better > 0 else 1 - one["value"]
            for name, one in found.items()
            if name not in ALWAYS_MEASURED and one["value"] is not None
            and metric_named(name).show == "percent" and metric_named(name).better
        }
        for model, found in report["models"].items() if model in names
    }  # fmt: skip
    alike = set.intersection(*(set(found) for found in shares.values())) if shares else set()
    return {model: sum(found[n] for n in alike) / len(alike) for model, found in shares.items() if alike}


def _number(output: Mapping[str, Any], name: str, form: str) -> str:
    return "–" if output.get(name) is None else form.format(output[name])


class Dot(NamedTuple):
    """A point of the plot, in a WIDTH x HEIGHT box with its origin at the top left; its area is its speed."""

    x: float
    y: float
    label: str
    radius: float
    label_y: float
    """Where the label stands, in a column beside the plot: as high as the dot, or as near as labels leave each other room."""


WIDTH, HEIGHT = 520, 260
LARGEST, UNKNOWN = 11.0, 4.0
"""Radii: of the fastest, and of what nobody measured the speed of."""
LABEL = 13.0
"""Height that a label takes."""


def outputs(report: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """(name, what was found) of outputs that were measured and diverge: what a plot of the divergence can show."""
    return [
        (_name(stage, kind), output)
        for stage, entry in report["smaller"].items()
        for kind, output in entry["outputs"].items()
        if output.get("kl") is not None and 0 < output["kl"] < math.inf
    ]


def radius(speed: float | None, fastest: float, largest: float = LARGEST) -> float:
    return UNKNOWN if speed is None else max(2.0, largest * math.sqrt(speed / fastest))


def dots(report: Mapping[str, Any]) -> list[Dot]:
    """Size (across) against mean KL (up, logarithmic), and speed as the area of the dot; none where fewer than two."""
    found = outputs(report)
    if len(found) < 2:
        return []
    sizes = [float(output["bytes"]) for _, output in found]
    heights = [math.log10(output["kl"]) for _, output in found]
    across, up = max(sizes) - min(sizes) or 1.0, max(heights) - min(heights) or 1.0
    fastest = max(output.get("tokens_per_second") or 0.0 for _, output in found)
    places = []
    for (name, output), size, height in zip(found, sizes, heights, strict=True):
        speed = output.get("tokens_per_second")
        label = name if speed is None else f"{name}, {speed:,.0f}/s"
        x, y = (size - min(sizes)) / across * WIDTH, (max(heights) - height) / up * HEIGHT
        places.append(Dot(x, y, label, radius(speed, fastest), y))
    return _apart(places)


class End(NamedTuple):
    """What an axis reaches, beside the plot."""

    x: float
    y: float
    anchor: str
    text: str


def ends(report: Mapping[str, Any]) -> list[End]:
    """Of both axes; none where `dots` has none."""
    found = [output for _, output in outputs(report)]
    if len(found) < 2:
        return []
    sizes, divergences = [output["bytes"] for output in found], [output["kl"] for output in found]
    return [
        End(0, HEIGHT + 32, "middle", megabytes(min(sizes))),
        End(WIDTH, HEIGHT + 32, "middle", megabytes(max(sizes))),
        End(-20, 4, "end", f"{max(divergences):.2g}"),
        End(-20, HEIGHT + 4, "end", f"{min(divergences):.2g}"),
    ]


def _apart(places: Sequence[Dot]) -> list[Dot]:
    """From the top down, each label below the one before; what finds no room below moves those above it up."""
    done: list[Dot] = []
    for dot in sorted(places, key=lambda dot: (dot.y, dot.x)):
        done.append(dot._replace(label_y=max(dot.y, done[-1].label_y + LABEL if done else dot.y)))
    lowest = max(HEIGHT, LABEL * (len(done) - 1))
    for nth in reversed(range(len(done))):
        done[nth] = done[nth]._replace(label_y=min(done[nth].label_y, lowest))
        lowest = done[nth].label_y - LABEL
    return done
