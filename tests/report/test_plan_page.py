"""The page of a plan: every phase that is counted has its bars, which stay inside, and nothing comes from elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from trivium.plan.hardware import cluster
from trivium.plan.project import project
from trivium.recipe.load import load
from trivium.report.plan import html, row, whole

RECIPE = load(Path(__file__).resolve().parents[2] / "recipes" / "quickstart.yaml")


@pytest.fixture(scope="module")
def found():
    return project(RECIPE, cluster("8xH100"))


def test_the_page_holds_every_phase_and_no_script(found) -> None:
    page = html(found)
    assert "<script" not in page and "http" not in page.replace("http://www.w3.org", "")
    for phase in found.phases:
        assert phase.stage in page
    for heading in ("Timeline", "Memory of each device", "Where the operations of", "Cost, US dollars"):
        assert heading in page
    bars = re.findall(r'<rect x="([\d.]+)" y="0" width="([\d.]+)"', page)
    assert bars and all(float(x) >= 0 and float(x) + float(width) <= 100.2 for x, width in bars)


def test_the_lines_have_shares_that_add_up(found) -> None:
    lines = [row(phase, found) for phase in found.phases if phase.hours.expected]
    assert sum(int(line[-1].rstrip("%")) for line in lines) == pytest.approx(100, abs=len(lines) / 2 + 1)
    base = next(line for line in lines if line[0] == "base")
    assert "parameters" in base[5] and "FLOP" in base[3] and "tokens" in base[4]
    assert len(whole(found)) == len(base) - 1
