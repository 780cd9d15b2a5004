"""Golden losses: a refactor that means to change nothing changes none of these numbers.

One file per phase, one loss per step, in `tests/golden`. `make golden` writes them anew (TRIVIUM_GOLDEN=write pytest
tests/train/test_golden.py); do that only for a change that is meant to move them, and say so where it is committed.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import tiny

from trivium.phases import PHASES

GOLDEN = Path(__file__).parents[1] / "golden"


def test_every_phase_has_golden_losses():
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(PHASES) == set(tiny.KINDS)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_losses_are_the_golden_ones(kind, tmp_path):
    # a run on its own replies is chaotic: a bit that another processor rounds otherwise becomes another word
    _, metrics = tiny.phase(kind, tmp_path, steps=4 if kind in tiny.ONLINE else 20)
    losses = [loss for _, loss in metrics["curve"]]
    path = GOLDEN / f"{kind}.txt"
    if os.environ.get("TRIVIUM_GOLDEN") == "write":
        path.write_text("".join(f"{loss!r}\n" for loss in losses), encoding="utf-8")
    golden = [float(line) for line in path.read_text(encoding="utf-8").splitlines()]
    # exact on the machine that wrote them; another processor adds in another order
    assert losses == pytest.approx(golden, rel=1e-4)
