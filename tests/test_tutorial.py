"""docs/tutorial.md as a new user goes through it: its commands, in their order, in an empty folder.

Only the sizes in the recipe that `trivium init` wrote are made small, and stages that no line of the page speaks of are left out.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import yaml

TUTORIAL = (Path(__file__).parent.parent / "docs" / "tutorial.md").read_text(encoding="utf-8")
LINES = [
    line
    for block in re.findall(r"```\n(.*?)```", TUTORIAL, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("trivium ")
]
SIZES = {
    "corpus": {"size": 200_000},
    "dialogues": {"size": 300},
    "pairs": {"size": 120},
    "vocab": {"vocab_size": 512},
    "base": {"tokens": "20K", "model": {"dim": 32, "layers": 2, "heads": 2, "context": 256}, "compile": "off"},
    "sft": {"epochs": 0.2, "compile": "off"},
    "aligned": {"steps": 3, "batch": 4},
    "safety": {"suites": [{"kind": "primer", "data": "dialogues", "items": 6}], "gates": {"sums": {"min": 0.0}}},
}  # fmt: skip


def made_small(recipe: Path) -> None:
    written = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    written["stages"] = {name: {**written["stages"][name], **more} for name, more in SIZES.items()}
    recipe.write_text(yaml.safe_dump(written, sort_keys=False))


def pasted(folder: Path, line: str) -> str:
    """What a line prints. Those that go on until they are stopped are stopped once they answered."""
    words = [sys.executable, "-m", "trivium", *shlex.split(line)[1:]]
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment = {
        **outside,
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "200",
    }  # NiceGUI serves no page inside a test
    if line == "trivium ui":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        app = subprocess.Popen([*words, "--port", str(port)], cwd=folder, env=environment)
        try:
            while True:
                try:
                    return httpx.get(f"http://127.0.0.1:{port}/run/demo", timeout=60).text
                except httpx.TransportError:
                    assert app.poll() is None
                    time.sleep(0.3)
        finally:
            app.terminate()
            app.wait(60)
    done = subprocess.run(
        words, cwd=folder, env=environment, input="Hi!\n", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow(minutes=5)
def test_every_command_of_the_tutorial_does_what_the_page_says(tmp_path: Path) -> None:
    pytest.importorskip("nicegui")
    said = {}
    for line in LINES:
        if "XXXXXX" in line:
            name = line.split()[-1].removesuffix("XXXXXX")
            (run,) = [path.name for path in (tmp_path / "runs").iterdir() if path.name.startswith(name)]
            line = line.replace(f"{name}XXXXXX", run)
        said[line.partition(" -")[0]] = pasted(tmp_path, line)
        if line == "trivium init demo":
            made_small(tmp_path / "demo.yaml")
    assert "8 stages to run" in said["trivium plan demo.yaml"]
    assert "demo" in said["trivium ui"] and "aligned" in said["trivium show demo"]
    assert "nothing" in pasted(tmp_path, "trivium run demo.yaml").lower()
