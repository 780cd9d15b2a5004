"""The recipes for large clusters, from one GPU to 16,384: each loads, and fits the cluster that it names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from trivium.plan.hardware import cluster
from trivium.plan.project import project
from trivium.recipe.load import load

FOLDER = Path(__file__).resolve().parents[2] / "recipes" / "scale"
SIZES = {"135m": 135e6, "1b": 1.3e9, "7b": 7.5e9, "70b": 70e9, "moe": 400e9}


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_it_fits_the_cluster_that_it_names(name: str) -> None:
    path = FOLDER / f"{name}.yaml"
    on = re.search(r"--on (\S+)", path.read_text())
    assert on is not None
    found = project(load(path), cluster(on[1]))
    phases = {phase.stage: phase for phase in found.phases}
    base = phases["base"]
    assert base.cost is not None and base.cost.parameters == pytest.approx(SIZES[name], rel=0.1)
    assert base.found is not None and base.devices == found.cluster.count
    assert {"sft", "aligned", "safety", "release"} <= set(phases)
    assert 0 < found.hours.expected < 24 * 90
    # a run without `micro_batch` takes all rows of a rank at once, and would not fit
    assert not [phase.stage for phase in found.phases if "the recipe does not say" in phase.note]


def test_there_is_no_other() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(SIZES)
