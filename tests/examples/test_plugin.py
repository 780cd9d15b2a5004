"""The plug-in of examples/plugin: its laws hold, a recipe runs it, and a change of its files makes its stages stale."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import trivium

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the package is installed into: on the path of the processes that the tests start, and of no other."""
    source, target = tmp_path_factory.mktemp("source") / "plugin", tmp_path_factory.mktemp("installed")
    shutil.copytree(ROOT / "examples" / "plugin", source)  # building leaves files behind
    words = ("install", "--quiet", "--no-deps", "--no-build-isolation", "--target", str(target), str(source))
    subprocess.run([sys.executable, "-m", "pip", *words], check=True)
    return target


def call(installed: Path, folder: Path, *words: str) -> str:
    path = os.pathsep.join([str(installed), str(Path(trivium.__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_its_laws_hold_in_one_line(installed: Path, tmp_path: Path) -> None:
    test = shutil.copy(ROOT / "examples" / "plugin" / "tests" / "test_cpo.py", tmp_path)
    said = call(installed, tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(test))
    assert "passed" in said and "failed" not in said


@pytest.mark.slow
def test_a_recipe_runs_it_and_knows_it_by_its_bytes(installed: Path, tmp_path: Path) -> None:
    shutil.copy(ROOT / "tests" / "recipes" / "tiny.yaml", tmp_path)
    lines = [
        json.dumps({"text": f"Day {n}: the cat went to the river and saw {n} stones."}) for n in range(300)
    ]
    (tmp_path / "documents.jsonl").write_text("\n".join(lines))
    trivium_ = ("-c", "from trivium.cli import main; main()")
    words = ("tiny.yaml", "-o", "aligned.kind=cpo", "-o", "base.steps=4")
    assert "aligned (cpo)" in call(installed, tmp_path, *trivium_, "run", *words, "--only", "aligned")
    artifact = json.loads((tmp_path / "runs" / "tiny" / "aligned" / "artifact.json").read_text())
    assert "trivium-cpo" in json.dumps(artifact)
    assert "cached" in _row(call(installed, tmp_path, *trivium_, "plan", *words))
    with (installed / "trivium_cpo" / "objective.py").open("a") as file:
        file.write("# changed\n")
    assert "cached" not in _row(call(installed, tmp_path, *trivium_, "plan", *words))


def _row(plan: str) -> str:
    return next(line for line in plan.splitlines() if "aligned" in line and "cpo" in line)
