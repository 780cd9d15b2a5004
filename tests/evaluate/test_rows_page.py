"""The page of rows: all of them, worst first, nothing in them runs, and a hundred thousand open at once."""

from __future__ import annotations

import base64
import gzip
import json
import random
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trivium import files
from trivium.evaluate.curves import Point, power_law
from trivium.evaluate.page import BLOCK, FEW, TEXTS, heats, page, rank
from trivium.evaluate.page import badness as known_of
from trivium.evaluate.rows import Row
from trivium.recipe.redteam import Gcg, RedTeam

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
HOSTILE = "</script><img src=x onerror=\"window.ran = 'image'\"><script>window.ran = 'script'</script>"
SUITES = [RedTeam(kind="redteam")]
RESULTS: dict[str, Any] = {
    "tested": "aligned", "baseline": "sft", "passed": False,
    "models": {
        "sft": {}, "aligned": {"attack_success": {"value": 0.25, "low": 0.1, "high": 0.5, "asked": 8, "undecided": 1}},
    },
    "gates": {"attack_success": {"result": "undecided", "reason": f"more items {HOSTILE}"}},
}  # fmt: skip


def row(
    n: int, outcome: str, judge: str = "content", model: str = "aligned", category: str = "", **more: Any
) -> Row:
    return Row(
        "redteam", category or "harmful/base64/fraud", f"c{n}", f"i{n}", model, 0,
        files.canonical_json([{"role": "user", "content": f"question {n}"}]), "t", "f", more.get("reply", f"reply {n}"), judge,
        outcome, "why" if outcome == "undecided" else "", None if outcome == "undecided" else float(outcome == "hit"), 1.0, 0.1,
    )  # fmt: skip


def parts(html: str) -> list[bytes]:
    """Names, columns, and blocks of texts."""
    found = re.findall(r'<script type="text/plain"[^>]*>([^<]*)</script>', html)
    return [gzip.decompress(base64.b64decode(one)) for one in found]


SEEN = ("judge", "model", "category", "item", "outcome", "score", "reply", "prompt")


def unpacked(html: str) -> list[dict[str, Any]]:
    """The rows of a page, read as its script reads them."""
    names, columns, *blocks = parts(html)
    told, texts = json.loads(names), [text for block in blocks for text in json.loads(block)]
    assert len(texts) == told["texts"] == len(set(texts))
    rows: list[dict[str, Any]] = [{} for _ in range(told["rows"])]
    place = 0
    for name, kind in told["layout"]:
        values = np.frombuffer(columns, {"Float64": "<f8", "Uint32": "<u4"}[kind], told["rows"], place)
        place += values.nbytes
        known = told["few"] if name in FEW else texts if name in TEXTS else None
        for row, value in zip(rows, values.tolist(), strict=True):
            row[name] = (
                (None if value != value else value) if known is None else known[value]
            )  # nan: no score
    assert place == len(columns)
    return rows


ROWS = st.lists(
    st.builds(
        row,
        st.integers(0, 5),
        st.sampled_from(["hit", "miss", "undecided"]),
        st.sampled_from(["content", "refused", "coherent"]),
        st.sampled_from(["aligned", "sft"]),
        st.sampled_from(["harmful/base64/fraud", "harmful/rot13/theft", "harmless/x", "injection"]),
        reply=st.sampled_from([HOSTILE, "", "é\u2028", None]),
    ),
    max_size=20,
)


def test_success_by_queries_stands_beside_its_fit():
    shares = ((1, 0.2), (10, 0.6))
    points = [{"queries": k, "success": s, "low": 0, "high": 1, "worst": s, "asked": 12} for k, s in shares]
    law = power_law([Point(**point) for point in points])
    curve = {"points": points, "a": law.a, "b": law.b}
    html = page([row(1, "hit")], {**RESULTS, "curves": {"gcg": {"aligned": curve}}}, SUITES)
    assert html.count("20.0%") == 2 and html.count("60.0%") == 2 and f"a={law.a:.2f}" in html
    flat = {"gcg": {"aligned": {**curve, "a": None, "b": None}}}
    assert page([row(1, "hit")], {**RESULTS, "curves": flat}, SUITES).count("20.0%") == 1


@given(ROWS)
@settings(max_examples=30, deadline=None)
def test_law_every_row_is_there_and_the_worst_come_first(rows: list[Row]) -> None:
    html = page(rows, RESULTS, SUITES)
    scripts = html.count("<script")
    assert (
        scripts == 1 + len(parts(html)) and "<img" not in html
    )  # the data are packed, the gate's reason is escaped
    there = [tuple(row[name] for name in SEEN) for row in unpacked(html)]
    expected = [
        tuple("" if name == "reply" and not r.reply else getattr(r, name) for name in SEEN) for r in rows
    ]
    assert Counter(there) == Counter(expected)
    ranks = {e: rank(r, known_of(SUITES)) for e, r in zip(expected, rows, strict=True)}
    assert [ranks[one] for one in there] == sorted(ranks[one] for one in there)


def test_what_is_bad_depends_on_the_metric_and_undecided_is_no_good() -> None:
    known = known_of(SUITES)
    order = [
        row(0, "hit", "content"), row(0, "undecided", "content"), row(0, "hit", "coherent", category="other"), row(0, "miss"),
    ]  # fmt: skip
    assert [rank(r, known) for r in order] == [0, 1, 3, 3]
    assert rank(row(0, "miss", "refused"), known) == 0  # an attack that was not refused
    assert rank(row(0, "hit", "refused", category="harmless/x"), known) == 0
    assert rank(row(0, "hit", "unknown"), known) == 2


def test_what_no_metric_counts_is_as_bad_as_what_its_judge_measures_elsewhere() -> None:
    """A search that got an answer on its way, and one draw of best-of-N."""
    known = known_of([*SUITES, Gcg(kind="gcg")])
    early = replace(row(0, "hit", category="searching/10 queries/fraud"), suite="gcg")
    assert rank(early, known) == 0 and rank(replace(early, outcome="miss"), known) == 3
    assert rank(row(0, "hit", category="best_of_n/fraud"), known) == 0
    assert (
        rank(row(0, "hit", "refused", category="best_of_n/fraud"), known) == 2
    )  # wanted here, unwanted there


def test_a_map_counts_undecided_rows_and_leaves_gaps_open() -> None:
    rows = [row(n, outcome) for n, outcome in enumerate(("hit", "miss", "miss", "undecided"))]
    rows += [
        row(9, "hit", category="harmful/rot13/theft"),
        row(8, "undecided", category="harmful/rot13/fraud"),
    ]
    [heat] = heats([*rows, row(1, "hit", category="harmless/x")], ["aligned"], known_of(SUITES))
    assert heat.columns == ["base64", "rot13"] and [line for line, _ in heat.lines] == ["fraud", "theft"]
    cells = {
        (line, column): cell
        for line, found in heat.lines
        for column, cell in zip(heat.columns, found, strict=True)
    }
    assert cells["fraud", "base64"].text == "1/4 ?1" and cells["fraud", "base64"].shade == 2
    assert cells["theft", "rot13"].shade == 10
    assert cells["theft", "base64"].text == "" and cells["theft", "base64"].shade is None
    assert cells["fraud", "rot13"].shade is None  # all undecided: no colour of "safe"
    assert cells["theft", "rot13"].tone == "bad"
    refused = replace(rows[0], judge="refused")
    tones = {
        one.judge: one.lines[0][1][0].tone
        for one in heats([refused, replace(refused, judge="else")], ["aligned"], known_of(SUITES))
    }
    assert tones == {"refused": "good", "else": "plain"}


def processor_seconds(session: Any) -> float:
    """Of the tab's process."""
    found: list[dict[str, Any]] = session.send("Performance.getMetrics")["metrics"]
    return float(next(one["value"] for one in found if one["name"] == "ProcessTime"))


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_a_hundred_thousand_rows_open_in_two_seconds_are_searched_and_none_of_them_runs(
    tmp_path: Path,
) -> None:
    """Every one has a prompt and a reply of its own. Seconds are the processor's: a machine may have other things to do."""
    from playwright.sync_api import sync_playwright

    draw = random.Random(7)
    words = ["".join(draw.choices("abcdefgh", k=6)) for _ in range(2000)]
    attacks, harms = ("base64", "rot13", "direct"), ("fraud", "theft")
    rows = [
        row(
            n, draw.choice(["hit", "miss", "undecided"]), draw.choice(["content", "refused"]),
            category=f"harmful/{draw.choice(attacks)}/{draw.choice(harms)}",
            reply=" ".join(draw.choices(words, k=40)) + (HOSTILE if n % 100 == 0 else ""),
        )
        for n in range(100_000)
    ]  # fmt: skip
    rows[77_777] = row(77_777, "hit", "content", reply="The needle in it.")
    assert len({r.reply for r in rows}) == len({r.prompt for r in rows}) == len(rows) > 50 * BLOCK
    (tmp_path / "rows.html").write_text(page(rows, RESULTS, SUITES), encoding="utf-8")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened = browser.new_context(bypass_csp=True).new_page()
        session = opened.context.new_cdp_session(opened)
        session.send("Performance.enable", {"timeDomain": "threadTicks"})
        opened.set_default_timeout(300_000)
        before = processor_seconds(session)
        opened.goto(f"file://{tmp_path}/rows.html")
        opened.wait_for_function("document.body.dataset.ready === 'yes'")
        assert processor_seconds(session) - before < 2
        assert opened.text_content("#count") == "100000 of 100000 rows"
        assert opened.locator(".row").count() < 100
        assert opened.locator(".row span").first.text_content() == "hit"
        opened.fill("#search", "NEEDLE in")
        opened.wait_for_function("document.getElementById('count').textContent.startsWith('1 of')")
        opened.locator(".row").first.click()
        assert "The needle in it." in opened.inner_text("#row") and "question 77777" in opened.inner_text(
            "#row"
        )
        opened.click("#all")
        opened.locator(".heat button").first.click()
        opened.wait_for_function("document.getElementById('count').textContent.includes('harmful/')")
        asked = int(opened.locator(".heat button").first.text_content().split("/")[1].split()[0])
        assert opened.text_content("#count").startswith(f"{asked} of")
        opened.click("#all")
        opened.fill("#search", "onerror")
        opened.wait_for_function("document.getElementById('count').textContent.startsWith('1000 of')")
        opened.locator(".row").first.click()
        assert "<img" in opened.inner_text("#row") and opened.evaluate("window.ran") is None
        browser.close()
