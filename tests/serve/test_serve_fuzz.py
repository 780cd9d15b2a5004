"""The server against its own OpenAPI description, filled in by schemathesis: whatever comes, no 5xx."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from served import Served

SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")


@pytest.mark.slow(10)
@pytest.mark.skipif(not SCHEMATHESIS.is_file(), reason="schemathesis is not installed")
def test_no_request_makes_the_server_fail(served: Served, tmp_path: Path) -> None:
    checks = "not_a_server_error,content_type_conformance,response_schema_conformance"
    command = [
        str(SCHEMATHESIS), "run", f"{served.root}/openapi.json", "--checks", checks, "--max-examples", "60", "--seed", "7",
        "--phases", "examples,coverage,fuzzing", "--mode", "all", "--suppress-health-check", "all", "--no-color",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:]
    assert "POST /v1/chat/completions" in done.stdout or "6 / 6" in done.stdout or "passed" in done.stdout
