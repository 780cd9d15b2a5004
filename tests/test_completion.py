"""What a shell completes, asked as the scripts of `trivium --install-completion` ask it."""

from __future__ import annotations

from pathlib import Path

import pytest
from forked import Forked

SHELLS = {
    "bash": lambda line: {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)},
    "zsh": lambda line: {"_TYPER_COMPLETE_ARGS": line},
    "fish": lambda line: {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
}
"""Shell -> what its script puts into the environment for a line of which the last word is being written."""


def completed(shell: str, line: str, folder: Path) -> str:
    asked = {"_TRIVIUM_COMPLETE": f"complete_{shell}", **SHELLS[shell](line)}
    script = "import sys; sys.argv = ['trivium']; from trivium.cli import main; main()"
    return Forked(script, cwd=folder, env=asked).communicate()[0]


@pytest.mark.parametrize(
    "shell", ["bash", *(pytest.param(name, marks=pytest.mark.slow) for name in ("zsh", "fish"))]
)
def test_options_runs_and_kinds_are_completed(tmp_path: Path, shell: str) -> None:
    for name in ("pocket", "pocket-two", "other"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "events.jsonl").touch()
    assert "--override" in completed(shell, "trivium run mine.yaml --ov", tmp_path)
    runs = completed(shell, "trivium show poc", tmp_path)
    assert "pocket" in runs and "pocket-two" in runs and "other" not in runs
    kinds = completed(shell, "trivium explain dp", tmp_path)
    assert "dpo" in kinds and "kto" not in kinds
    fields = completed(shell, "trivium explain dpo.b", tmp_path)
    assert "dpo.beta" in fields and "dpo.batch" in fields and "dpo.lr" not in fields
