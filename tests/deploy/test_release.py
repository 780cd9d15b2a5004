"""Nothing is released whose gates did not pass, and the refusal names each of them."""

from __future__ import annotations

import json

import pytest

from trivium.deploy.release import check_gates
from trivium.errors import GateError
from trivium.recipe.deployment import ReleaseStage

CONFIG = ReleaseStage(kind="release", model="small", requires=["safety", "again"])


def gate(value, *, low=None, high=None):
    passed = value is not None and (low is None or value >= low) and (high is None or value <= high)
    result = "passed" if passed else "undecided" if value is None else "failed"
    ends = {"low": None if value is None else value - 0.1, "high": None if value is None else value + 0.1}
    return {
        "min": low,
        "max": high,
        "value": value,
        **ends,
        "passed": passed,
        "result": result,
        "reason": "why" if value is None else "",
    }


@pytest.fixture
def evaluations(tmp_path):
    def write(**stages):
        for name, gates in stages.items():
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / "results.json").write_text(json.dumps({"gates": gates}))
        return {name: tmp_path / name for name in stages}

    return write


def test_passed_gates_release(evaluations):
    check_gates(CONFIG, evaluations(safety={"win_rate": gate(0.8, low=0.7)}, again={}))


def test_every_failed_gate_is_named_with_bound_and_value(evaluations):
    folders = evaluations(
        safety={"win_rate": gate(0.51234, low=0.7), "bits_per_byte": gate(2.0, high=3.0)},
        again={"false_refusals": gate(0.4, high=0.2), "refusal_rate": gate(None, low=0.8)},
    )
    with pytest.raises(GateError) as refused:
        check_gates(CONFIG, folders)
    said = str(refused.value)
    assert "the release of 'small' is refused: 3 gates did not pass" in said
    assert "safety: win_rate is 0.512 [0.412, 0.612], must be ≥ 0.7: failed" in said
    assert "again: false_refusals is 0.4 [0.3, 0.5], must be ≤ 0.2: failed" in said
    assert "again: refusal_rate is not measured, must be ≥ 0.8: undecided (why)" in said
    assert "bits_per_byte" not in said
    assert refused.value.exit_code == 5


def test_a_gate_with_two_bounds_says_both(evaluations):
    with pytest.raises(GateError, match=r"must be ≥ 0\.2 and ≤ 0\.4"):
        check_gates(CONFIG, evaluations(safety={"x": gate(0.9, low=0.2, high=0.4)}))
