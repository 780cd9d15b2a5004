"""How long the pages of `trivium ui` take with many long runs. `python benchmarks/ui.py [--runs 200] [--points 100000]`.

Makes logs of so many runs with so many steps each, starts the app over them, and asks for each page a few times.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
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


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--points", type=int, default=100_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write(folder / "run000", arguments.points)
        content = (folder / "run000" / "events.jsonl").read_bytes()
        for n in range(1, arguments.runs):
            (folder / f"run{n:03d}").mkdir()
            (folder / f"run{n:03d}" / "events.jsonl").write_bytes(content)
        print(f"{arguments.runs} runs of {arguments.points:,} points, {len(content) / 1e6:.0f} MB each")
        print(f"{platform.processor() or platform.machine()}, load before {os.getloadavg()[0]:.1f}")
        command = [
            "-c",
            "from trivium.cli import main; main()",
            "ui",
            "--runs",
            temporary,
            "--port",
            str(PORT),
        ]
        app = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL)
        try:
            root = f"http://127.0.0.1:{PORT}"
            while True:
                try:
                    httpx.get(root, timeout=60)
                    break
                except httpx.TransportError:
                    time.sleep(0.3)
            for name, path in (
                ("list of runs", "/"),
                ("one run", "/run/run{:03d}"),
                ("five compared", "/compare?runs={}"),
            ):
                times = []
                for turn in range(5):
                    five = ",".join(f"run{n:03d}" for n in range(10 + turn * 5, 15 + turn * 5))
                    where = path.format(five if "compare" in path else turn)
                    started = time.perf_counter()
                    httpx.get(root + where, timeout=120).raise_for_status()
                    times.append(time.perf_counter() - started)
                print(
                    f"{name:<15} first {times[0]:.2f} s, median {statistics.median(times):.2f} s, most {max(times):.2f} s"
                )
        finally:
            app.terminate()
            app.wait(20)
        print(f"load after {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
