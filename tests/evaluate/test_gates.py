"""Gates: three results, the worst taken of what is undecided, and none passed by accident."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivium.evaluate.gates import detectable, judge
from trivium.evaluate.metrics import Estimate
from trivium.evaluate.rows import Row
from trivium.recipe.evaluation import EvaluateStage


def row(outcome: str, number: int, model: str = "m", **changes) -> Row:
    score = None if outcome == "undecided" else float(outcome == "hit")
    values = {
        "suite": "refusals", "category": "harmful", "cluster": str(number), "item": str(number), "model": model,
        "attempt": 0, "prompt": "[]", "template": "t", "first_ids": "f", "reply": "r", "judge": "refused",
        "outcome": outcome, "reason": "why" if outcome == "undecided" else "", "score": score, "weight": 1.0,
        "seconds": 0.0,
    }  # fmt: skip
    return Row(**(values | changes))


def rows(hits: int = 0, misses: int = 0, undecided: int = 0, **changes) -> list[Row]:
    outcomes = ["hit"] * hits + ["miss"] * misses + ["undecided"] * undecided
    return [row(outcome, number, **changes) for number, outcome in enumerate(outcomes)]


def stage(gates: dict, **changes) -> EvaluateStage:
    suites = [{"kind": "refusals", "data": "d"}, {"kind": "reasoning", "data": "e"}]
    return EvaluateStage.model_validate(
        {"kind": "evaluate", "model": "m", "suites": suites, "gates": gates, **changes}
    )


def result(found: list[Row], gate: dict, metric: str = "refusal_rate", **changes) -> dict:
    contaminated = changes.pop("contaminated", None)
    return judge(stage({metric: gate}, **changes), found, None, contaminated)[metric]


@pytest.mark.parametrize(
    ("found", "gate", "expected"),
    [(rows(95, 5), {"min": 0.8}, "passed"), (rows(85, 15), {"min": 0.8}, "undecided"), (rows(50, 50), {"min": 0.8}, "failed"),
     (rows(1, 99), {"max": 0.1}, "passed"), (rows(50, 50), {"max": 0.1}, "failed"), (rows(50, 50), {"max_abs": 0.7}, "passed"),
     (rows(50, 50), {"min": 0.3, "max": 0.7}, "passed"), (rows(1), {"min": 0.5}, "undecided"), ([], {"min": 0.0}, "undecided"),
     ([], {"max": 1.0}, "undecided"), (rows(undecided=100), {"max": 0.5}, "undecided"),
     (rows(undecided=100), {"min": 0.5}, "undecided"), (rows(undecided=100), {"max": 1.0}, "undecided"),
     (rows(undecided=100), {"min": 0.0}, "undecided")],
)  # fmt: skip
def test_three_results(found, gate, expected):
    told = result(found, gate)
    assert told["result"] == expected
    assert told["passed"] is (expected == "passed")
    assert bool(told["reason"]) is (expected == "undecided")


def test_undecided_rows_are_the_worst_case_on_either_side():
    assert result(rows(97, 3), {"min": 0.9}, )["result"] == "passed"  # fmt: skip
    assert result(rows(97, 0, 3), {"min": 0.9})["result"] == "passed"
    assert result(rows(85, 0, 15), {"min": 0.9})["result"] == "undecided"
    assert result(rows(0, 85, 15), {"max": 0.1})["result"] == "undecided"
    assert "15 undecided rows counted as the worst" in result(rows(0, 85, 15), {"max": 0.1})["reason"]


@given(
    st.integers(0, 40),
    st.integers(0, 40),
    st.integers(0, 10),
    st.floats(0, 1),
    st.sampled_from(["min", "max"]),
)
def test_law_turning_undecided_into_either_never_makes_a_pass_wrong(hits, misses, undecided, bound, side):
    """A gate that passes with undecided rows passes however they turn out."""
    if result(rows(hits, misses, undecided), {side: bound})["passed"]:
        assert result(rows(hits + undecided, misses), {side: bound})["passed"]
        assert result(rows(hits, misses + undecided), {side: bound})["passed"]


@given(st.integers(1, 60), st.integers(0, 60), st.floats(0.01, 0.99), st.sampled_from(["min", "max"]))
def test_law_the_promised_number_of_items_decides(hits, misses, bound, side):
    told = result(rows(hits, misses), {side: bound})
    if told["more_items"]:
        times = -(-(hits + misses + told["more_items"]) // (hits + misses))
        if times * (hits + misses) < 2000:
            assert result(rows(hits * times, misses * times), {side: bound})["result"] != "undecided"


def test_a_contaminated_suite_cannot_pass_but_can_fail():
    told = result(rows(100), {"min": 0.5}, contaminated={"d": 3})
    assert told["result"] == "undecided" and "contaminated: 3 items" in told["reason"]
    assert result(rows(100), {"min": 0.5}, contaminated={"e": 3})["result"] == "passed"
    assert result(rows(0, 100), {"min": 0.5}, contaminated={"d": 3})["result"] == "failed"


def test_no_worse_than_the_baseline_is_about_the_same_items():
    same = rows(80, 20) + rows(80, 20, model="b")
    gate = {"no_worse_than_baseline": 0.05}
    assert result(same, gate, baseline="b")["result"] == "passed"
    worse = rows(60, 40) + rows(90, 10, model="b")
    told = result(worse, gate, baseline="b")
    assert told["result"] == "failed" and told["value"] == pytest.approx(-0.3)
    assert (
        result(rows(81, 19) + rows(80, 20, model="b"), {"no_worse_than_baseline": 0.0}, baseline="b")[
            "result"
        ]
        == "undecided"
    )
    fewer = rows(80, 20) + rows(80, 19, model="b")
    assert "one of the two models only" in result(fewer, gate, baseline="b")["reason"]
    assert "baseline was not measured" in result(rows(80, 20), gate, baseline="b")["reason"]
    # less is better: more false refusals are worse
    over = [
        r.__class__(**{**vars(r), "category": "harmless"}) for r in rows(40, 60) + rows(10, 90, model="b")
    ]
    assert result(over, gate, "false_refusals", baseline="b")["result"] == "failed"


def test_a_difference_counts_undecided_of_either_side_as_the_worst():
    gate = {"no_worse_than_baseline": 0.05}
    assert result(rows(100) + rows(100, model="b"), gate, baseline="b")["result"] == "passed"
    assert result(rows(85, 0, 15) + rows(100, model="b"), gate, baseline="b")["result"] != "passed"
    assert result(rows(0, 100) + rows(0, 85, 15, model="b"), gate, baseline="b")["result"] != "passed"


def test_false_alarms_of_no_worse_under_equality_are_rare():
    rng = np.random.default_rng(0)
    failed = 0
    for _ in range(300):
        pair = rng.random((2, 60)) < 0.7
        found = [
            row("hit" if hit else "miss", number, model)
            for model, hits in zip("mb", pair, strict=True)
            for number, hit in enumerate(hits)
        ]
        failed += result(found, {"no_worse_than_baseline": 0.0}, baseline="b")["result"] == "failed"
    assert failed / 300 <= 0.05


def test_gates_are_held_together_by_holm():
    """Alone each gate passes at 95%; of two, the weaker one is held against 97.5% unless the other has passed."""
    config = stage({"refusal_rate": {"min": 0.885}, "reasoning_exact_match": {"min": 0.885}})
    good = rows(95, 5)
    second = [Row(**{**vars(r), "suite": "reasoning", "judge": "correct", "category": "x"}) for r in good]
    assert result(good, {"min": 0.885})["result"] == "passed"
    both = judge(config, good + second)
    assert [g["result"] for g in both.values()] == ["undecided", "undecided"]
    assert both["refusal_rate"]["confidence"] == pytest.approx(0.975)
    certain = [Row(**{**vars(r), "outcome": "hit"}) for r in second]
    after = judge(config, good + certain)
    assert [g["result"] for g in after.values()] == ["passed", "passed"]
    assert after["refusal_rate"]["confidence"] == pytest.approx(0.95)


def test_what_has_no_rows_is_held_against_what_was_seen():
    config = stage({"tokens_per_second": {"min": 100}, "file_bytes": {"max": 10}})
    size = Estimate(9, 9, 9, 1, 1, 0)
    for slowest, expected in ((120, "passed"), (90, "undecided")):
        speed = Estimate(150, slowest, 180, 5, 5, 0)
        gates = judge(config, [], {"tokens_per_second": speed, "file_bytes": size})
        assert gates["tokens_per_second"]["result"] == expected
        assert gates["file_bytes"]["result"] == "passed"
    assert {g["reason"] for g in judge(config, []).values()} == {"not measured"}


def test_clusters_count_and_not_rows():
    """Ten phrasings of ten topics are ten, and cannot show what a hundred topics show."""
    phrasings = [Row(**{**vars(r), "cluster": str(int(r.item) // 10)}) for r in rows(100)]
    assert result(rows(100), {"min": 0.9})["result"] == "passed"
    assert result(phrasings, {"min": 0.9})["result"] == "undecided"


def test_what_gates_can_show_is_said_before():
    lines = detectable(stage({"refusal_rate": {"min": 0.6}, "reasoning_exact_match": {"min": 0.99}}),
                       {"refusals": [(side, str(i % 40)) for side in ("harmful", "harmless") for i in range(200)],
                        "reasoning": [("reasoning", str(i)) for i in range(50)]})  # fmt: skip
    assert (
        "refusal_rate, 200 items in 40 clusters" in lines[0]
        and "only if the true value is at least 0." in lines[0]
    )
    assert "cannot show at least 0.99: too few items" in lines[1]


def test_what_gates_can_show_counts_the_items_below_a_metrics_category():
    config = EvaluateStage.model_validate(
        {"kind": "evaluate", "model": "m", "suites": [{"kind": "redteam"}], "gates": {"attack_success": {"max": 0.3}}}
    )  # fmt: skip
    asked = [(f"harmful/{attack}/theft", str(i)) for attack in ("direct", "base64") for i in range(24)]
    (line,) = detectable(config, {"redteam": [*asked, ("harmless/look_alike", "x")]})
    assert "attack_success, 48 items in 24 clusters: can show at most 0.3 only if" in line
