"""What smaller models cost: a row for each output of a `quantize` or `export` stage, and their size against their divergence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from trivium.report.table import megabytes

SMALLER = ["stage", "type", "size", "bits/weight", "Δ bits/byte", "KL", "KL 99%", "same top", "formats"]


class SmallerLine(NamedTuple):
    stage: str
    type: str
    size: str
    bits: str
    change: str
    kl: str
    kl_p99: str
    same: str
    mix: str
    """Formats that a GGUF file really holds, and whether calibration chose the roundings."""


def smaller_lines(report: Mapping[str, Any]) -> list[SmallerLine]:
    """Every output, in the order of the recipe; a dash where the stage had no `data` to measure on."""
    return [
        SmallerLine(
            f"{stage} ({entry['model']})",
            kind,
            megabytes(output["bytes"]),
            f"{output['bits_per_weight']:.2f}",
            _number(output, "bits_per_byte_increase", "{:+.4f}"),
            _number(output, "kl", "{:.5f}"),
            _number(output, "kl_p99", "{:.4f}"),
            _number(output, "top1_agreement", "{:.1%}"),
            ", ".join(f"{count} {form}" for form, count in output.get("mix", {}).items())
            + (" (calibrated)" if output["calibrated"] else ""),
        )
        for stage, entry in report["smaller"].items()
        for kind, output in entry["outputs"].items()
    ]


def _number(output: Mapping[str, Any], name: str, form: str) -> str:
    return "–" if output.get(name) is None else form.format(output[name])


class Dot(NamedTuple):
    """A point of the plot, in a WIDTH x HEIGHT box with its origin at the top left."""

    x: float
    y: float
    label: str


WIDTH, HEIGHT = 520, 220


def dots(report: Mapping[str, Any]) -> list[Dot]:
    """Size (across) against mean KL (up, logarithmic), of outputs that were measured and diverge; none where fewer than two."""
    points = [
        (float(output["bytes"]), math.log10(output["kl"]), kind)
        for entry in report["smaller"].values()
        for kind, output in entry["outputs"].items()
        if output.get("kl") is not None and 0 < output["kl"] < math.inf
    ]
    if len(points) < 2:
        return []
    sizes, heights = [size for size, _, _ in points], [height for _, height, _ in points]
    across, up = max(sizes) - min(sizes) or 1.0, max(heights) - min(heights) or 1.0
    return [
        Dot((size - min(sizes)) / across * WIDTH, (max(heights) - height) / up * HEIGHT, kind)
        for size, height, kind in points
    ]
