"""The page of a plan: every phase that is counted has its bars, which stay inside, and nothing comes from elsewhere."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivium.plan.hardware import cluster
from trivium.plan.project import project
from trivium.recipe.load import load
from trivium.report.plan import DOT, LETTER, LINE, WIDTH, html, labels, row, whole

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
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


CUT = """() => ['.phases', '.bars', '.said', 'svg', 'h2', 'table'].flatMap(what => [...document.querySelectorAll(what)])
    .filter(one => one.getBoundingClientRect().right > innerWidth + 1)
    .concat([...document.querySelectorAll('.phases td')].filter(one => one.scrollWidth > one.clientWidth + 1))
    .map(one => one.outerHTML.slice(0, 80))"""
"""What is cut at the right edge of the window, or of its cell."""
MET = """() => { const boxes = [...document.querySelectorAll('.roof text')].map(one => one.getBoundingClientRect());
    return boxes.some((a, i) => boxes.some((b, j) => i < j && a.left < b.right - 1 && b.left < a.right - 1 &&
        a.top < b.bottom - 2 && b.top < a.bottom - 2)); }"""
"""Whether two texts of the roofline lie over each other."""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("recipe", ["quickstart.yaml", "scale/7b.yaml", "scale/moe.yaml"])
def test_nothing_is_cut_on_a_wide_window_a_narrow_one_and_a_phone(recipe: str, tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    path = Path(__file__).resolve().parents[2] / "recipes" / recipe
    page = tmp_path / "plan.html"
    page.write_text(html(project(load(path), cluster("16384xB200" if "moe" in recipe else "64xH100"))))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened = browser.new_page()
        for width in (1300, 800, 390):
            opened.set_viewport_size({"width": width, "height": 900})
            opened.goto(page.as_uri())
            assert opened.evaluate(CUT) == [], width
            assert not opened.evaluate(MET), width
        browser.close()


PLACES = st.tuples(st.floats(65, WIDTH - 25), st.floats(20, 220))


@given(st.lists(PLACES, min_size=1, max_size=10))
def test_every_point_has_its_number_once_in_a_label_on_the_page(places: list[tuple[float, float]]) -> None:
    said = [int(number) for label in labels(places) for number in label.text.split(", ")]
    assert sorted(said) == list(range(1, len(places) + 1))


@given(
    st.lists(st.sampled_from([(x, y) for x in range(80, 420, 60) for y in range(30, 220, 40)]), max_size=9)
)
def test_labels_lie_over_no_point_and_no_other_label(places: list[tuple[int, int]]) -> None:
    """Of points that touch or are far enough from each other for a label between them."""
    found = labels(places)
    for label in found:
        assert not any(label.meets(x - DOT, y - DOT, x + DOT, y + DOT) for x, y in places)
        for other in found:
            if other is not label:
                assert not label.meets(other.x, other.y - LINE, other.x + LETTER * len(other.text), other.y)
