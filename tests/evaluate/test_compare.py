"""Two tables of rows: every change is told, in both directions, and the figures are those of the paired tests."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivium import files
from trivium.cli import main
from trivium.evaluate import rows as table
from trivium.evaluate.compare import Evaluation, compare, compare_evaluations
from trivium.evaluate.rows import Row
from trivium.evaluate.statistics import mcnemar


def row(item: int, outcome: str, model: str = "a", judge: str = "refused", **changes) -> Row:
    score = None if outcome == "undecided" else float(outcome == "hit")
    prompt = files.canonical_json([{"role": "user", "content": f"question {item}"}])
    base = Row(
        "refusals", "harmful", f"c{item}", f"i{item}", model, 0, prompt, "t", "f", f"reply {model} {item}",
        judge, outcome, "why" if outcome == "undecided" else "", score, 1.0, 0.1,
    )  # fmt: skip
    return replace(base, **changes)


OUTCOMES = st.lists(st.tuples(*[st.sampled_from(["hit", "miss", "undecided"])] * 2), min_size=1, max_size=30)


@given(OUTCOMES)
def test_law_every_item_is_kept_gained_lost_or_undecided_and_the_way_back_mirrors_it(pairs):
    one = [row(i, a) for i, (a, _) in enumerate(pairs)]
    other = [row(i, b, "b") for i, (_, b) in enumerate(pairs)]
    there, back = compare(one, other), compare(list(reversed(other)), one)
    shift, mirrored = there.shifts[0], back.shifts[0]
    gained, lost = pairs.count(("miss", "hit")), pairs.count(("hit", "miss"))
    assert (shift.gained, shift.lost) == (gained, lost) == (mirrored.lost, mirrored.gained)
    assert shift.items + shift.undecided == len(pairs)
    assert shift.undecided == sum("undecided" in pair for pair in pairs)
    assert len(there.changes) == sum(a != b for a, b in pairs) == len(back.changes)
    if shift.items:
        assert shift.difference == pytest.approx((gained - lost) / shift.items)
        assert shift.difference == pytest.approx(-mirrored.difference)
        assert shift.p == mcnemar(gained, lost) == mirrored.p


def test_what_cannot_be_paired_is_counted_and_not_compared():
    one = [row(0, "hit"), row(1, "hit"), row(2, "miss")]
    reworded = row(2, "hit", "b", prompt=files.canonical_json([{"role": "user", "content": "else"}]))
    found = compare(one, [row(0, "miss", "b"), reworded, row(3, "hit", "b")])
    assert (found.one_sided, found.reworded) == (2, 1)
    assert [(c.item, c.before, c.after) for c in found.changes] == [("i0", "hit", "miss")]


def test_ratios_are_compared_as_ratios():
    one = [row(i, "hit", judge="bits", score=4.0 + i, weight=2.0 + i) for i in range(4)]
    other = [replace(r, model="b", score=r.score + 1) for r in one]
    shift = compare(one, other).shifts[0]
    assert shift.difference == pytest.approx(4 / 14)
    assert shift.before == pytest.approx(22 / 14)


def test_what_another_judge_has_looked_at_is_not_compared():
    rows = [row(0, "hit"), row(0, "miss", judge="content"), row(0, "hit", suite="redteam")]
    turned = [replace(r, model="b", outcome="miss" if r.outcome == "hit" else "hit") for r in rows]
    before = Evaluation("a", rows, {"refusals": {"refused": "classifier 1"}, "gone": {"refused": "x"}})
    after = Evaluation("b", turned, {"refusals": {"refused": "classifier 2", "content": "model m"}})
    found = compare_evaluations(before, after)
    assert {(o.axis, o.before, o.after) for o in found.other_judges} == {
        ("refused", "classifier 1", "classifier 2"), ("content", "rules", "model m"),
    }  # fmt: skip
    assert [(c.suite, c.judge) for c in found.changes] == [("redteam", "refused")]
    assert len(compare_evaluations(before, replace_judges(after, before)).changes) == 3


def replace_judges(one: Evaluation, other: Evaluation) -> Evaluation:
    return one._replace(judges=other.judges)


def test_on_the_command_line(tmp_path, capsys):
    for name, outcomes in (("one", ["hit", "miss", "miss"]), ("two", ["miss", "hit", "miss"])):
        (tmp_path / name).mkdir()
        lines = [row(i, outcome, name) for i, outcome in enumerate(outcomes)]
        lines[0] = replace(lines[0], reply="\x1b[2J bold")
        lines += [row(9, "hit", "baseline")]
        table.write(tmp_path / name / table.FILE, lines)
        (tmp_path / name / "results.json").write_text(json.dumps({"tested": name}))
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", "compare", str(tmp_path / "one"), str(tmp_path / "two"), "--json"])
    assert stopped.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert [(c["before"], c["after"]) for c in found["changes"]] == [("hit", "miss"), ("miss", "hit")]
    assert found["one_sided"] == 0
    with pytest.raises(SystemExit):
        main(["evaluate", "compare", str(tmp_path / "one"), str(tmp_path / "two"), "--changes", "1"])
    shown = capsys.readouterr().out
    assert "hit -> miss" in shown and "1 more changes" in shown and "\x1b" not in shown
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", "compare", str(tmp_path), str(tmp_path / "two")])
    assert stopped.value.code == 4
