"""The last gate: nothing is released whose evaluation did not pass."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from trivium.errors import GateError
from trivium.recipe.deployment import ReleaseStage
from trivium.recipe.evaluation import bound_of, value_of


def check_gates(config: ReleaseStage, evaluations: Mapping[str, Path]) -> None:
    """GateError naming every gate that did not pass, with its bound and the value found."""
    failed = []
    for stage, folder in evaluations.items():
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        for metric, gate in results["gates"].items():
            if not gate["passed"]:
                why = f" ({gate['reason']})" if gate["reason"] else ""
                failed.append(
                    f"{stage}: {metric} is {value_of(gate)}, must be {bound_of(gate)}: {gate['result']}{why}"
                )
    if failed:
        raise GateError(
            f"the release of {config.model!r} is refused: {len(failed)} gates did not pass\n  "
            + "\n  ".join(failed),
            fix="improve the stage that the metric is about, or move the bound in `gates` and say why",
        )
