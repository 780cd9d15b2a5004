"""The doctor says what is missing, what that means and what to do, and fails only where runs would."""

from __future__ import annotations

import json
import socket
from pathlib import Path

from pytest import MonkeyPatch
from typer.testing import CliRunner

from trivium.cli import app, doctor
from trivium.errors import TriviumError


def findings(*arguments: str) -> dict[str, dict[str, str]]:
    done = CliRunner().invoke(app, ["doctor", "--json", *arguments])
    return {finding["what"]: finding for finding in json.loads(done.stdout)}


def test_a_machine_that_can_run_is_told_what_it_has(tmp_path: Path) -> None:
    found = findings("--store", str(tmp_path / "not" / "yet"))
    assert {"Python", "PyTorch", "bf16", "compiler", "cores", "disk", "Slurm", "Ray", "extra serve"} <= set(
        found
    )
    assert all(finding["state"] != "broken" for finding in found.values())
    assert str(tmp_path) in found["disk"]["found"]
    assert CliRunner().invoke(app, ["doctor", "--store", str(tmp_path)]).exit_code == 0


def test_each_trouble_is_named_with_what_to_do(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(doctor, "LITTLE_DISK", 1e30)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setattr(doctor, "PORT", taken.getsockname()[1])
        found = findings("--store", str(tmp_path))
    for what in ("compiler", "disk", "port", "cores"):
        assert found[what]["state"] == "limited" and found[what]["do"], what
    assert "OMP_NUM_THREADS=1" in found["cores"]["found"]
    assert found["Slurm"]["found"] == "the program sbatch is missing"
    if doctor._installed("ray"):  # asked through its package: no program is needed
        assert found["Ray"]["state"] == "ok"


def test_a_store_that_cannot_be_written_fails(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_writable", lambda place: False)
    done = CliRunner().invoke(app, ["doctor", "--store", str(tmp_path)])
    assert isinstance(done.exception, TriviumError) and "✗ disk" in done.stdout


def test_a_missing_package_names_its_extra(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    installed = doctor._installed
    monkeypatch.setattr(doctor, "_installed", lambda name: name != "llguidance" and installed(name))
    found = findings("--store", str(tmp_path))
    assert found["extra serve"]["found"] == "without llguidance"
    assert found["extra serve"]["do"] == "pip install 'trivium[serve]'"
