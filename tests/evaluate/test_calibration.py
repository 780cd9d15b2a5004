"""Only what is an opinion stands beside what people would have said."""

import pytest
from pydantic import TypeAdapter

from trivium.evaluate.calibration import JUDGES, calibrated
from trivium.recipe.evaluation import EvaluateStage
from trivium.recipe.suites import metrics_of

SUITES = [
    {"kind": "primer", "data": "talks"},
    {"kind": "refusals", "data": "talks"},
    {"kind": "redteam"},
    {"kind": "reasoning", "data": "talks"},
    {"kind": "preferences", "data": "pairs"},
]


@pytest.fixture(scope="module")
def metrics():
    stage = TypeAdapter(EvaluateStage).validate_python(
        {"kind": "evaluate", "model": "chat", "baseline": "base", "suites": SUITES}
    )
    return metrics_of(list(stage.suites))


def test_what_is_compared_with_the_right_answer_is_no_opinion(metrics):
    suite, _ = metrics["sums"]
    names = ("sums", "described_text", "signatures", "sorting", "small_talk")
    assert all(
        metric.judge in JUDGES for name, (_, metric) in metrics.items() if name in names
    )  # the name alone would do
    assert [calibrated(*metrics[name], {}) for name in names] == [None] * len(names)
    assert calibrated(suite, metrics["sums"][1], {"refusals": {"content": JUDGES["content"]}}) is None


def test_what_the_rules_say_of_a_refusal_is(metrics):
    assert calibrated(*metrics["refusal_rate"], {}) == JUDGES["refused"]
    assert calibrated(*metrics["attack_success"], {}) == JUDGES["content"]
    assert calibrated(*metrics["injected"], {}) is None  # a signed text was said or not
    assert (
        calibrated(*metrics["complied"], {"refusals": {"content": None}}) is None
    )  # its judge has no labels
