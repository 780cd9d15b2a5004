"""The last gate: nothing is released whose evaluation did not pass."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from trivium.errors import GateError
from trivium.recipe.deployment import ReleaseStage


def check_gates(config: ReleaseStage, evaluations: Mapping[str, Path]) -> None:
    """GateError naming every gate that did not pass, with its bound and the value found."""
    failed = []
    for stage, folder in evaluations.items():
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        for metric, gate in results["gates"].items():
            if not gate["passed"]:
                bounds = [
                    f"{word} {gate[key]:g}"
                    for key, word in (("min", "at least"), ("max", "at most"))
                    if gate[key] is not None
                ]
                value = "not measured" if gate["value"] is None else f"{gate['value']:.4g}"
                failed.append(f"{stage}: {metric} is {value}, must be {' and '.join(bounds)}")
    if failed:
        raise GateError(
            f"the release of {config.model!r} is refused: {len(failed)} gates did not pass\n  "
            + "\n  ".join(failed),
            fix="improve the stage that the metric is about, or move the bound in `gates` and say why",
        )
