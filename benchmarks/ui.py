"""How long the pages of `trivium ui` take with many long runs. `python benchmarks/ui.py [--runs 200] [--points 100000]`.

Makes logs of so many runs with so many steps each, starts the app over them, and opens each page in Chromium: seconds until
what it is about is on the screen, and the processor time of the app and of the browser until then (other work on the machine
stretches it less). No run is opened twice, so no log has been read before.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx

PORT = 8653


def write(folder: Path, points: int) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    folder.mkdir()
    with (folder / "events.jsonl").open("w") as file:
        first = {"time": start.isoformat(), "event": "run_start", "stages": ["base"]}
        begun = {
            "time": start.isoformat(),
            "event": "stage_start",
            "stage": "base",
            "kind": "pretrain",
            "fingerprint": "0" * 64,
        }
        file.write(json.dumps(first) + "\n" + json.dumps(begun) + "\n")
        for n in range(1, points + 1):
            when = (start + timedelta(seconds=n)).isoformat()
            step = {
                "event": "step",
                "step": n,
                "steps": points,
                "loss": 10 / n**0.3,
                "lr": 1e-3,
                "grad_norm": 0.5,
                "mfu": 0.4,
            }
            file.write(json.dumps({"time": when, **step, "stage": "base"}) + "\n")


PAGES = {
    "list of runs": ("/", 0, None, "tbody a"),
    "one run": ("/run/{}", 1, None, "text=base"),
    "its curves": ("/run/{}?tab=Curves", 1, None, "canvas"),
    "curves after stages": ("/run/{}", 1, "Curves", "canvas"),
    "five compared": ("/compare?runs={}", 5, None, "canvas"),
    "with every step read": ("/compare?runs={}", 5, None, "text=Fields that differ"),
}
"""Page -> (its path, of how many runs, the tab that is opened, what has to be there)."""


def processor(pid: int) -> float:
    """Seconds that a process and its children, as far as they live, have computed."""
    stats = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            cells = file.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        stats[int(file.parent.name)] = (
            int(cells[1]),
            (int(cells[11]) + int(cells[12])) / os.sysconf("SC_CLK_TCK"),
        )
    family = {pid}
    while more := {child for child, (parent, _) in stats.items() if parent in family} - family:
        family |= more
    return sum(stats[one][1] for one in family if one in stats)


def measure(root: str, turns: int, app: int) -> None:
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(root)  # the browser's cache is filled once
        page.wait_for_timeout(3000)
        unread = itertools.count()
        for name, (path, runs, tab, there) in PAGES.items():
            times, ours, browsers = [], [], []
            for _ in range(turns):
                where = path.format(",".join(f"run{next(unread):03d}" for _ in range(runs)))
                before, all_before = processor(app), processor(os.getpid())
                started = time.perf_counter()
                page.goto(root + where, wait_until="commit")
                if tab is not None:
                    page.get_by_role("tab", name=tab).click(timeout=120_000)
                page.locator(there).first.wait_for(timeout=120_000)
                times.append(time.perf_counter() - started)
                ours.append(processor(app) - before)
                browsers.append(processor(os.getpid()) - all_before - ours[-1])
                page.wait_for_timeout(1000)  # what is drawn afterwards is not the next page's
            print(
                f"{name:<20} median {statistics.median(times):.2f} s, most {max(times):.2f} s; "
                f"processor: app {statistics.median(ours):.2f} s, browser {statistics.median(browsers):.2f} s"
            )
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--turns", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write(folder / "run000", arguments.points)
        first = folder / "run000" / "events.jsonl"
        for n in range(1, arguments.runs):  # one file under many names: the disk is not what is measured
            (folder / f"run{n:03d}").mkdir()
            (folder / f"run{n:03d}" / "events.jsonl").hardlink_to(first)
        size = first.stat().st_size / 1e6
        print(f"{arguments.runs} runs of {arguments.points:,} points, {size:.0f} MB each")
        print(f"{platform.processor() or platform.machine()}, load before {os.getloadavg()[0]:.1f}")
        command = [sys.executable, "-m", "trivium", "ui", "--runs", temporary, "--port", str(PORT)]
        app = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            root = f"http://127.0.0.1:{PORT}"
            while True:
                try:
                    httpx.get(root, timeout=60)
                    break
                except httpx.TransportError:
                    time.sleep(0.3)
            measure(root, arguments.turns, app.pid)
        finally:
            app.terminate()
            app.wait(20)
        print(f"load after {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
