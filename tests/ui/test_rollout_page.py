"""The router's page in Chromium: traffic, intervals and verdicts are shown, and what a person does there stands in the log."""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "rollout"))
from routed import GUARDRAILS, Arm, Site, events_of, in_loop, site

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
HOSTILE = "<img src=x onerror=\"window.ran = 'image'\"><script>window.ran = 'script'</script>"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")]
PATIENCE = 120_000
"""Milliseconds."""


async def traffic(here: Site) -> None:
    while True:
        await here.ask()
        await asyncio.sleep(0.02)


def test_a_person_sees_and_acts(tmp_path: Path) -> None:
    log = tmp_path / "log.db"
    stages = [{"share": 0.3, "decide": False, "min_units": 10_000}, {"share": 0.6, "min_units": 10_000}]

    async def work() -> None:
        from playwright.async_api import async_playwright

        async with site(log, stages=stages, guardrails=GUARDRAILS) as here, async_playwright() as playwright:
            asking = asyncio.create_task(traffic(here))
            browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = await browser.new_page()
            page.set_default_timeout(PATIENCE)
            await page.goto(f"{here.url}/rollout")

            async def seen(text: str) -> None:
                await page.get_by_text(text).first.wait_for()

            async def act(button: str, reason: str) -> None:
                await page.get_by_label("Reason").fill(reason)
                await page.get_by_role("button", name=button, exact=True).click()
                await page.locator("#verdicts").get_by_text(reason).first.wait_for()

            await seen("running, stage 1 of 2, 30% of the requests")
            await seen("units of this stage: candidate")
            for name in ("errors over time", "empty over time", "latency over time", "Requests by arm"):
                await page.get_by_role("img", name=name).wait_for()
            await (
                page.get_by_role("img", name="errors over time").locator(".margin").wait_for(state="attached")
            )
            await page.get_by_role("button", name="Hold", exact=True).click()
            await seen("say why")
            await page.get_by_label("Who").fill("ann")
            await act("Promote", "looked at by hand")
            await seen("running, stage 2 of 2, 60% of the requests")
            await act("Hold", HOSTILE)
            await act("Resume", "lunch is over")
            assert await page.evaluate("window.ran") is None
            shown = page.locator("#guardrails section", has=page.get_by_role("img", name="latency over time"))
            await shown.locator(
                "td", has_text=" s ("
            ).first.wait_for()  # its quantiles, each with its interval
            assert await shown.locator("th").all_inner_texts() == ["", "p50", "p95", "p99"]
            await (
                page.get_by_role("img", name="latency over time").locator(".band").wait_for(state="attached")
            )
            await page.screenshot(path=tmp_path / "page.png", full_page=True)  # for whoever looks
            asking.cancel()
            await act("Roll back", "complaints by telephone")
            await seen("rolled back, stage 2 of 2, 0% of the requests")
            await page.get_by_label("Reason").fill("again?")
            await page.get_by_role("button", name="Promote", exact=True).click()
            await seen("nothing can be done: the rollout is rolled back")
            await browser.close()

    asyncio.run(work())
    rows = [event for event in events_of(log) if event["event"] == "verdict"]
    assert [row["action"] for row in rows] == ["promote", "hold", "resume", "roll back"]
    assert {row["by"] for row in rows} == {"ann"} and rows[1]["reason"] == HOSTILE


def test_a_page_that_needs_a_key_asks_for_it(tmp_path: Path) -> None:
    from trivium.rollout.server import Options
    from trivium.serve.keys import add

    keys = tmp_path / "admins"
    key: Any = add(keys, "bob")

    async def work() -> None:
        from playwright.async_api import async_playwright

        async with (
            site(tmp_path / "log.db", options=Options(admin_keys=keys)) as here,
            async_playwright() as playwright,
        ):
            browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = await browser.new_page()
            page.set_default_timeout(PATIENCE)
            await page.goto(f"{here.url}/rollout")
            await page.get_by_text("needs a valid key").wait_for()
            await page.get_by_label("key").fill(key)
            await page.get_by_text("running, stage 1 of 1").wait_for()
            await browser.close()

    asyncio.run(work())


@in_loop
async def test_of_several_candidates_one_is_named(tmp_path: Path) -> None:
    from playwright.async_api import async_playwright

    stages = [{"share": {"short": 0.2, "warm": 0.3}, "min_units": 10_000}]
    several = {"stages": stages, "guardrails": GUARDRAILS, "goal": "errors"}
    arms = {"short": Arm(), "warm": Arm()}
    async with (
        site(tmp_path / "log.db", candidates=arms, **several) as here,
        async_playwright() as playwright,
    ):
        asking = asyncio.create_task(traffic(here))
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = await browser.new_page()
        page.set_default_timeout(PATIENCE)
        await page.goto(f"{here.url}/rollout")
        await page.get_by_text("short 20%, warm 30%").wait_for()
        for name in ("short: errors over time", "warm: latency over time", "Requests by arm"):
            await page.get_by_role("img", name=name).wait_for()
        await (
            page.get_by_role("img", name="short: errors over time")
            .locator(".arm0.band")
            .wait_for(state="attached")
        )
        await (
            page.get_by_role("img", name="warm: errors over time")
            .locator(".arm1.band")
            .wait_for(state="attached")
        )
        await page.get_by_label("Who", exact=True).fill("ann")
        await page.get_by_label("Reason").fill("which one?")
        await page.get_by_role("button", name="Promote", exact=True).click()
        await page.get_by_text("say which, short or warm").wait_for()
        await page.get_by_label("Which candidate").select_option("short")
        await page.get_by_role("button", name="Roll back", exact=True).click()
        await page.locator("#verdicts").get_by_text("roll back short").wait_for()
        await page.locator("#candidates").get_by_text("rolled back").wait_for()
        await page.get_by_text("running, stage 1 of 1, 30% of the requests").wait_for()
        await page.screenshot(path=tmp_path / "several.png", full_page=True)  # for whoever looks
        asking.cancel()
        await browser.close()
    assert [(e["action"], e["arm"]) for e in events_of(tmp_path / "log.db") if e["event"] == "verdict"] == [
        ("roll back", "short")
    ]
