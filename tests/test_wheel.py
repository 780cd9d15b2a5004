"""The wheel holds every file of the package, and works away from the sources."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import trivium

SOURCES = Path(trivium.__file__).parent


@pytest.mark.slow
def test_the_wheel_is_whole_and_runs_by_itself(tmp_path):
    root = SOURCES.parent.parent
    if not (root / "pyproject.toml").exists():
        pytest.skip("trivium is not run from its sources")

    def runs(*command: str, **kwargs) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *command],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            **kwargs,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    sources = tmp_path / "sources"  # what an earlier build left beside the real ones would get into the wheel
    shutil.copytree(root / "src", sources / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for file in root.iterdir():
        if file.is_file():
            shutil.copy(file, sources)
    runs("pip", "wheel", "-q", "--no-deps", "-w", "wheels", str(sources))
    (wheel,) = (tmp_path / "wheels").glob("trivium-*.whl")
    with zipfile.ZipFile(wheel) as packed:
        held = {name for name in packed.namelist() if name.startswith("trivium/")}
        packed.extractall(tmp_path / "installed")
    written = {
        path.relative_to(SOURCES.parent).as_posix()
        for path in SOURCES.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert held == written
    alone = {"env": {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}}
    which = subprocess.run(
        [sys.executable, "-c", "import trivium; print(trivium.__file__)"],
        capture_output=True,
        text=True,
        **alone,
    )
    assert which.stdout.startswith(str(tmp_path))
    runs("trivium", "init", "demo", **alone)
    assert "stages to run" in runs("trivium", "plan", "demo.yaml", **alone)
