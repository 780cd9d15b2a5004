"""Final answers are compared by algebra or as they stand; a comparison that does not end says nothing."""

from __future__ import annotations

from collections import Counter

import pytest

from trivium.errors import DataError
from trivium.evaluate.asked import Answer, Item
from trivium.evaluate.rows import HIT, MISS, Undecided
from trivium.evaluate.run import Plan
from trivium.evaluate.suites import answers
from trivium.recipe.benchmarks import Answers
from trivium.verify.replies import Reply


def said(by: str, wanted: str, reply: str):
    item = Item(
        "a", "maths", "a", ({"role": "user", "content": "Half?"},), {"meta": {"answer": wanted}, "by": by}
    )
    [verdict] = answers.judge(item, Answer(Reply(reply)))
    return verdict.outcome


@pytest.mark.parametrize(
    ("wanted", "reply", "by_algebra", "as_it_stands"),
    [
        ("1/2", "Two halves make one, so the answer is 0.5.", HIT, MISS),
        ("x^2+2x+1", r"It is \boxed{(x+1)^2}", HIT, MISS),
        ("12", "3 + 9 = 12\n#### 12", HIT, HIT),
        ("12", "Answer: 13", MISS, MISS),
        ("no", "Answer: on", MISS, MISS),
    ],
)
def test_answers_are_compared_by_algebra_or_as_they_stand(wanted, reply, by_algebra, as_it_stands):
    assert said("math", wanted, reply) is by_algebra
    assert said("exact", wanted, reply) is as_it_stands


def test_a_comparison_that_does_not_end_is_undecided(monkeypatch):
    class Slow:
        failures = Counter()

        def __call__(self, record, reply):
            self.failures["timed out"] += 1
            return 0.0

    slow = Slow()
    monkeypatch.setattr(answers, "_verifier", lambda by: slow)
    assert isinstance(said("math", "1", "Answer: 2"), Undecided)
    assert isinstance(said("math", "1", "Answer: 2"), Undecided)


def test_items_are_those_with_an_answer(tmp_path, write_lines):
    question = {"role": "user", "content": "What is 3 + 9?"}
    told = {
        "key": "b",
        "messages": [question, {"role": "assistant", "content": "3 + 9 = 12\n#### 12"}],
        "meta": {},
    }
    given = {"key": "a", "messages": [question], "meta": {"answer": "12"}}
    open_ = {"key": "c", "messages": [{"role": "user", "content": "How are you?"}], "meta": {}}
    write_lines(tmp_path / "talks" / "heldout.jsonl", [told, given, open_])
    config = Answers(kind="answers", data="talks")
    plan = Plan.make(config, {"talks": tmp_path / "talks"})
    assert sorted(item.record["key"] for item in plan.items) == ["a", "b"]
    assert "math-verify" in answers.identity(config, tmp_path)
    write_lines(tmp_path / "talks" / "heldout.jsonl", [open_])
    with pytest.raises(DataError, match="nothing to measure"):
        Plan.make(config, {"talks": tmp_path / "talks"})
