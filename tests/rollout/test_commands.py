"""`trivium rollout` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trivium.cli import main
from trivium.rollout.plan import Candidate, Guardrail, RolloutPlan, Stage, load_plan
from trivium.rollout.power import needs, until_caught, until_proven

PLAN = Path(__file__).parents[2] / "examples" / "rollout.yaml"


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stopped:
        main(["rollout", *words])
    shown = capsys.readouterr()
    return stopped.value.code or 0, shown.out + shown.err


def test_power_says_what_the_plan_can_see(capsys: pytest.CaptureFixture[str]) -> None:
    code, shown = call(capsys, "power", str(PLAN), "--rate", "error=0.02")
    assert code == 0 and "errors" in shown and "latency" in shown


def test_a_candidate_that_fails_is_rolled_back(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("simulate", str(PLAN), "--candidate", "error=0.5", "--runs", "2", "--requests", "4000")
    code, shown = call(capsys, *words)
    assert code == 0 and "rolled back: 2 of 2" in shown and "errors:" in shown


def test_a_log_is_replayed_and_a_forged_one_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = load_plan(PLAN).model_dump(mode="json")
    events = [{"t": 0.0, "event": "started", "plan": plan}]
    for number in range(40):
        metrics = {"error": 1, "empty": 0, "refusal": 0, "slow": 0, "log_latency": 0.0}
        request = {"t": 1.0, "event": "request", "id": str(number), "unit": str(number), "arm": "candidate"}
        events.append(request | {"metrics": metrics})
    final = {
        "t": 1.0,
        "event": "verdict",
        "action": "roll back",
        "reason": "errors",
        "stage": 0,
        "by": "policy",
    }
    log = tmp_path / "log.jsonl"
    log.write_text("\n".join(map(json.dumps, [*events, final])))
    code, shown = call(capsys, "replay", str(log))
    assert code == 0 and "roll back" in shown and "1 verdicts" in shown
    log.write_text("\n".join(map(json.dumps, [*events, final | {"action": "promote"}])))
    assert call(capsys, "replay", str(log))[0] == 4
    log.write_text(json.dumps(events[0]) + '\n{"t": 1')
    code, shown = call(capsys, "replay", str(log))
    assert code == 4 and "line 2" in shown


def test_a_routers_log_is_played_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Lines need no more than `t`, `event`, `unit` and `metrics`."""
    log = tmp_path / "yesterday.jsonl"
    metrics = {"error": 0, "empty": 0, "refusal": 0, "slow": 0, "log_latency": 0.0}
    rows = [{"t": n / 10, "event": "request", "unit": f"user-{n}", "metrics": metrics} for n in range(3000)]
    log.write_text("\n".join(map(json.dumps, rows)))
    words = ("simulate", str(PLAN), "--traffic", str(log), "--runs", "2")
    code, shown = call(capsys, *words, "--candidate", "error=0.9")
    assert code == 0 and "rolled back: 2 of 2" in shown and "errors:" in shown
    code, shown = call(capsys, *words)
    assert code == 0 and "running: 2 of 2" in shown
    assert (
        call(capsys, *words, "--rate", "error=0.1")[0] == 2 and call(capsys, *words, "--slower", "0")[0] == 2
    )
    log.write_text(json.dumps({"t": 0, "event": "tick"}))
    assert call(capsys, *words)[0] == 3


@pytest.mark.parametrize("words", [("--rate", "latency=1"), ("--rate", "error=2"), ("--rate", "error")])
def test_rates_that_are_none(words: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "power", str(PLAN), *words)[0] == 2


def test_needs_fall_with_the_share_and_grow_with_the_proof() -> None:
    assert until_caught(0.01, 3, 0.5, 3.0) < until_caught(0.01, 2, 0.5, 3.0)
    assert until_caught(0.01, 3, 0.5, 3.0) < until_caught(0.01, 3, 0.05, 3.0)
    plan = load_plan(PLAN)
    errors = plan.guardrails["errors"]
    tighter = errors.model_copy(update={"within": errors.within / 2})
    assert until_proven(errors, 0.01, 0.5, 3.0) < until_proven(tighter, 0.01, 0.5, 3.0)
    rows = needs(plan)
    assert {row.stage for row in rows} == {0, 1, 2, 3}
    assert all(
        (row.proof is None) == (row.stage < 2 or plan.guardrails[row.guardrail].within is None)
        for row in rows
    )


def test_the_expected_number_is_near_the_simulated_median() -> None:
    """1 against 3% at half the traffic: about 1,160 requests in simulation at 1/alpha alone."""
    import math

    assert 700 < until_caught(0.01, 3, 0.5, math.log(20)) < 1700


def test_the_documentation_lists_the_fields_of_a_plan_with_their_defaults() -> None:
    """What a wrong plan's message promises: each field in the line of its table, and each default that is a plain value."""
    text = (PLAN.parents[1] / "docs" / "rollout.md").read_text()
    rows = {
        line.split("|")[1].strip(): line
        for line in text.split("## The fields of a plan")[1].splitlines()
        if "|" in line
    }
    models = {"the plan": RolloutPlan, "a stage": Stage, "a guardrail": Guardrail, "an arm": Candidate}
    for name, model in models.items():
        for field, info in model.model_fields.items():
            assert f"`{field}`" in rows[name] or f"`{field}: " in rows[name], (name, field)
            if (
                isinstance(info.default, float | int)
                and not isinstance(info.default, bool)
                and f"`{field}: " in rows[name]
            ):
                said = rows[name].split(f"`{field}: ")[1].split("`")[0]
                assert float(said.removesuffix("s")) == info.default, (name, field)
