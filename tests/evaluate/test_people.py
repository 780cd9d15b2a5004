"""People's votes: nothing is lost or counted twice, nobody sees a model's name, and the figures are those of the papers."""

from __future__ import annotations

import json
import math
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_line import trivium
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from trivium import files
from trivium.corpus.rows import record
from trivium.errors import ArtifactError, DataError
from trivium.evaluate.people import export
from trivium.evaluate.people.agreement import alpha
from trivium.evaluate.people.server import Arena
from trivium.evaluate.people.strengths import POINTS, fit, standings
from trivium.evaluate.people.tasks import Table, Task, dealt, names_itself, shown, tasks
from trivium.evaluate.people.votes import Busy, Vote, Votes, standing
from trivium.evaluate.rows import Row

HOSTILE = "<img src=x onerror=alert(1)>"


def row(item: int, model: str, reply: str | None = None, **changes: object) -> Row:
    prompt = files.canonical_json([{"role": "user", "content": f"question {item}"}])
    said = f"{model * 3} answers {item}" if reply is None else reply
    base = Row(
        "redteam", "harmful/direct", f"c{item}", f"i{item}", model, 0, prompt, f"template {model}", "f", said,
        "refused", "hit", "", 1.0, 1.0, 0.1,
    )  # fmt: skip
    return replace(base, **changes)


def table(items: int = 4, models: tuple[str, ...] = ("xa", "xb")) -> Table:
    return Table("e1", "safety", [row(n, model) for n in range(items) for model in models])


def vote(task: Task, rater: str, choice: str, number: int, **changes: object) -> Vote:
    sides = shown(task, rater)
    right = sides[1].model if len(sides) == 2 else ""
    base = Vote(
        f"key-{rater}-{number}", task.id, rater, choice, sides[0].model, right,
        " ".join(side.template for side in sides), "", True, True, 1.0, "2026-11-26T00:00:00+00:00",
    )  # fmt: skip
    return replace(base, **changes)


def test_pairs_are_of_replies_to_the_same_prompt_and_what_cannot_be_judged_is_left_out() -> None:
    rows = [row(n, model) for n in range(2) for model in ("xa", "xb", "xc")]
    rows += [row(2, "xa"), row(2, "xb", prompt="[]")]  # other words
    rows += [row(3, "xa"), row(3, "xb", " \n")]
    rows += [row(4, "xa"), row(4, "xb", "502 Bad Gateway", outcome="undecided", reason="r", score=None)]
    found, account = tasks([Table("e1", "safety", rows)])
    assert Counter((task.item, tuple(s.model for s in task.sides)) for task in found) == Counter(
        (item, pair) for item in ("i0", "i1") for pair in (("xa", "xb"), ("xa", "xc"), ("xb", "xc"))
    )
    assert account == {"no reply": 1, "undecided by every judge": 1, "one model only": 4}
    assert len({task.id for task in found}) == 6
    single, _ = tasks([Table("e1", "safety", rows)], rate=True)
    assert len(single) == 10 and all(len(task.sides) == 1 for task in single)


def test_models_of_one_name_in_two_evaluations_stay_apart() -> None:
    one = Table("e1", "safety", [row(0, "aligned")])
    other = Table("e2", "int8_safety", [row(0, "aligned", "another reply")])
    [found] = tasks([one, other])[0]
    assert [side.model for side in found.sides] == ["int8_safety/aligned", "safety/aligned"]
    assert {side.evaluation for side in found.sides} == {"e1", "e2"}


@given(st.integers(1, 6), st.floats(0, 1), st.integers(0, 99))
@settings(max_examples=30)
def test_law_every_task_is_dealt_and_those_in_common_come_first_for_all(
    count: int, overlap: float, seed: int
) -> None:
    every = tasks([table(12)])[0]
    names = [f"r{n}" for n in range(count)]
    hands = {name: [task.id for task in dealt(every, name, names, seed, overlap)] for name in names}
    common = set.intersection(*(set(hand) for hand in hands.values()))
    assert set().union(*hands.values()) == {task.id for task in every}
    assert sum(map(len, hands.values())) == len(every) + len(common) * (count - 1)
    assert len({tuple(hand[: len(common)]) for hand in hands.values()}) == 1


def test_sides_are_drawn_for_each_rater_and_stay() -> None:
    every = tasks([table(200)])[0]
    turned = [shown(task, "ann")[0].model == "xa" for task in every]
    assert 60 < sum(turned) < 140
    assert turned == [shown(task, "ann")[0].model == "xa" for task in every]
    assert turned != [shown(task, "bob")[0].model == "xa" for task in every]


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        ("I am Trivium-2, a helpful model.", True),
        ("Hello! My name is trivium-2.", True),
        ("I'm ChatGPT, made by others.", True),
        ("I am a large model called Qwen2.5.", True),
        ("The base of the triangle is 3.", False),
        ("I am sure that the base is 3.", True),  # errs to the safe side: "base" is a model's name here
        ("A llama is an animal of the Andes.", False),
        ("I am a basement.", False),
        ("Ask Pocket about it.", True),
    ],
)
def test_a_reply_that_says_which_model_it_is(reply: str, told: bool) -> None:
    assert names_itself(reply, ["Trivium-2", "base"], ["pocket"]) is told


def test_a_vote_sent_twice_is_there_once_and_what_counts_is_the_last_word(tmp_path: Path) -> None:
    one, two, *_ = tasks([table()])[0]
    votes = Votes(tmp_path / "votes.sqlite")
    first = vote(one, "ann", "left", 1)
    assert votes.add(first) and not votes.add(first)
    with pytest.raises(DataError, match="belongs to another vote"):
        votes.add(replace(first, choice="right"))
    later, other = vote(one, "ann", "right", 2), vote(two, "ann", "tie", 3)
    for sent in (later, vote(one, "bob", "bad", 4), other, replace(other, key="key-undo", choice="undo")):
        votes.add(sent)
    votes.close()
    again = Votes(tmp_path / "votes.sqlite")
    assert {(v.rater, v.choice) for v in standing(again.log())} == {("ann", "right"), ("bob", "bad")}
    assert len(again.log()) == 5
    again.close()


def test_a_database_that_cannot_be_used_is_said_and_nothing_is_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trivium.evaluate.people.votes.BUSY", 0)
    path = tmp_path / "votes.sqlite"
    votes = Votes(path)
    task = tasks([table()])[0][0]
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(Busy, match="locked"):
        votes.add(vote(task, "ann", "left", 1))
    holder.execute("ROLLBACK")
    assert votes.add(vote(task, "ann", "left", 1))
    holder.execute("UPDATE arena SET version = 0")
    holder.close()
    votes.close()
    with pytest.raises(ArtifactError, match="another version"):
        Votes(path)
    whole = path.read_bytes()
    for broken in (b"no database at all, but a text of some length" * 40, whole[:1000]):
        other = tmp_path / f"broken{len(broken)}.sqlite"
        other.write_bytes(broken)
        with pytest.raises(ArtifactError, match="cannot be read"):
            Votes(other)
        assert other.read_bytes() == broken
    foreign = tmp_path / "foreign.sqlite"
    with sqlite3.connect(foreign) as link:
        link.execute("CREATE TABLE songs (name TEXT)")
    link.close()
    with pytest.raises(ArtifactError, match="something else"):
        Votes(foreign)
    with pytest.raises(DataError, match="no such database"):
        Votes("nosuch://host/name")


def test_an_import_into_a_database_that_is_locked_says_so_and_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("trivium.evaluate.people.votes.BUSY", 0)
    task = tasks([table()])[0][0]
    rows = export.lines("votes", [vote(task, "ann", "left", 1)], {task.id: task})[0]
    (tmp_path / "votes.jsonl").write_text("\n".join(rows), encoding="utf-8")
    path = tmp_path / "votes.sqlite"
    with closing(Votes(path)) as votes:
        votes.keep([task])
    given = ("arena", "import", str(tmp_path / "votes.jsonl"), "--votes", str(path))
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        assert trivium(*given) == 1 and "try again" in capsys.readouterr().err
    assert trivium(*given) == 0 and "1 votes added" in capsys.readouterr().out


def test_the_page_is_told_no_model_and_takes_only_votes(tmp_path: Path) -> None:
    votes = Votes(tmp_path / "votes.sqlite")
    found = tasks(
        [
            Table(
                "e1",
                "s",
                [row(0, "xa"), row(0, "xb", f"I am xb {HOSTILE}"), row(1, "xa", "x"), row(1, "xb", "x ")],
            )
        ]
    )[0]
    ann = votes.rater("ann")
    assert votes.rater("ann") == ann
    head = {"Authorization": f"Bearer {ann}"}
    with TestClient(Arena(votes, found).app()) as web:
        assert "script-src 'self'" in web.get("/").headers["content-security-policy"]
        assert (
            web.get("/next").status_code
            == web.get("/next", headers={"Authorization": "Bearer no"}).status_code
            == 403
        )
        assert web.get("/next", headers=head | {"Origin": "http://elsewhere"}).status_code == 403
        seen = []
        for nth in range(2):
            given = web.get("/next", headers=head).json()
            task = given["task"]
            assert (given["done"], given["all"]) == (nth, 2)
            assert not {"xa", "xb", "model"} & set(task) and "template" not in json.dumps(given)
            assert task["same"] is (task["replies"][0].strip() == task["replies"][1].strip())
            seen.append(task["id"])
            body = {"key": f"key number {nth}", "task": task["id"], "choice": "left", "seconds": 2}
            for wrong in (
                {"key": "short"}, {"key": 7}, {"choice": "good"}, {"choice": ["left"]}, {"seconds": "2"}, {"seconds": True},
                {"reason": 4}, {"reason": "a\0b"}, {"seconds": 10**400}, {"key": "eight\0 or more"},
            ):  # fmt: skip
                assert web.post("/vote", json=body | wrong, headers=head).status_code == 400
            assert web.post("/vote", json=body | {"task": "none"}, headers=head).status_code == 404
            assert web.post("/vote", content=b"{", headers=head).status_code == 400
            assert web.post("/vote", content=b"[" * 20_000, headers=head).status_code == 413
            lone = json.dumps(body | {"reason": "\ud800"}).encode()
            for deep in (lone, b"[" * 9000, b'{"seconds": 1' + b"0" * 9000 + b"}"):
                assert web.post("/vote", content=deep, headers=head).status_code == 400
            for again in (False, True, True):
                assert web.post("/vote", json=body, headers=head).json() == {"stored": True, "again": again}
            assert web.post("/vote", json=body | {"choice": "tie"}, headers=head).status_code == 409
        assert web.get("/next", headers=head).json()["task"] is None
        for again in (False, True):
            undone = web.post("/undo", json={"key": "key of undo"}, headers=head)
            assert undone.json() == {"stored": True, "again": again}
        assert web.get("/next", headers=head).json()["task"]["id"] == seen[1]
    blind = {task.id: task.item == "i1" for task in found}
    assert all(one.blind is blind[one.task] for one in votes.log())
    assert {one.templates for one in votes.log()} <= {"template xa template xb", "template xb template xa"}
    votes.close()


def test_two_models_have_the_closed_form_of_davidson() -> None:
    """50 wins, 20 losses, 30 ties: p_i / p_j = 50 / 20 and v = 30 / sqrt(50 * 20)."""
    design = np.tile([1.0, -1.0], (100, 1))
    outcome = np.repeat([0, 1, 2], (50, 20, 30))
    beta = fit(design, outcome, np.full(100, 1e4))  # so many that the prior does not count
    assert beta[0] - beta[1] == pytest.approx(math.log(50 / 20), abs=1e-4)
    assert math.exp(beta[2]) == pytest.approx(30 / math.sqrt(50 * 20), abs=1e-4)


@given(st.lists(st.sampled_from(["left", "right", "tie", "bad"]), min_size=6, max_size=6), st.randoms())
@settings(max_examples=15, deadline=None)
def test_law_neither_order_nor_side_changes_a_strength(choices: list[str], random) -> None:
    every = tasks([table(6)])[0]
    known = {task.id: task for task in every}
    votes = [
        vote(task, "ann", choice, n) for n, (task, choice) in enumerate(zip(every, choices, strict=True))
    ]
    turn = {"left": "right", "right": "left"}
    turned = [replace(v, left=v.right, right=v.left, choice=turn.get(v.choice, v.choice)) for v in votes]
    random.shuffle(turned)
    one, other = (standings(said, known, repeats=2) for said in (votes, turned))
    assert {s.model: round(s.points, 6) for s in one.strengths} == {
        s.model: round(s.points, 6) for s in other.strengths
    }
    assert sum(s.points for s in one.strengths) == pytest.approx(0, abs=1e-6)


def test_many_raters_narrow_the_interval_and_many_votes_of_one_do_not_stand_for_many_raters() -> None:
    """Raters differ in what they prefer: each always says the same. 12 tasks each."""
    every = tasks([table(12)])[0]
    known = {task.id: task for task in every}

    def choice(task: Task, rater: int) -> str:
        return "left" if (shown(task, f"r{rater}")[0].model == "xa") == (rater % 3 > 0) else "right"

    def said(raters: int) -> list[Vote]:
        return [vote(t, f"r{n}", choice(t, n), i) for n in range(raters) for i, t in enumerate(every)]

    widths = []
    for raters in (6, 48):
        found = standings(said(raters), known, repeats=60)
        best = found.strengths[0]
        assert best.model == "xa" and best.points == pytest.approx(POINTS * math.log(2) / 2, abs=6)
        widths.append(best.high - best.low)
    assert widths[1] < widths[0] / 2
    assert widths[1] > 60  # 576 votes that were independent would give some 60 points


def test_at_equal_length_a_model_that_only_writes_more_is_no_better() -> None:
    """The longer reply wins three times of four, whoever wrote it; one model mostly writes more."""
    rows, votes = [], []
    for n in range(200):
        sizes = (100, 300) if n % 10 else (300, 100)
        rows += [row(n, model, "y" * size) for model, size in zip(("xa", "xb"), sizes, strict=True)]
    every = tasks([Table("e", "s", rows)])[0]
    known = {task.id: task for task in every}
    for n, task in enumerate(every):
        left, right = shown(task, "ann")
        longer = "left" if len(left.reply) > len(right.reply) else "right"
        votes.append(vote(task, "ann", longer if n % 4 else {"left": "right", "right": "left"}[longer], n))
    plain, equal = (standings(votes, known, length=length, repeats=2) for length in (False, True))
    assert plain.strengths[0].model == "xb" and plain.strengths[0].points > 60
    assert abs(equal.strengths[0].points) < 30 and equal.length and equal.length > 1


def test_a_vote_that_was_not_blind_is_in_no_score() -> None:
    every = tasks([table(3)])[0]
    known = {task.id: task for task in every}
    votes = [vote(every[0], "ann", "left", 0), vote(every[1], "ann", "left", 1, blind=False)]
    found = standings(votes, known, repeats=2)
    assert [s.votes for s in found.strengths] == [1, 1] and found.non_blind == 1
    assert standings(votes[1:], known).strengths == ()
    rows = export.people_rows(votes, known)
    assert sorted(r.outcome for r in rows) == ["hit", "miss", "undecided", "undecided"]


def test_alpha_is_that_of_krippendorffs_example() -> None:
    """Krippendorff (2011), "Computing Krippendorff's alpha-reliability", part C: four observers, gaps; 0.743."""
    observers = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]
    units = [[o[n] for o in observers if o[n] != "."] for n in range(12)]
    assert alpha(units) == pytest.approx(0.743, abs=5e-4)
    assert alpha([["a", "a"], ["b", "b"]]) == 1.0
    assert alpha([["a", "a"]]) is alpha([["a"], ["b"]]) is None


def test_export_import_export_is_the_same_bytes(tmp_path: Path) -> None:
    every = tasks([table(5)])[0]
    one, two = Votes(tmp_path / "one.sqlite"), Votes(tmp_path / "two.sqlite")
    one.keep(every)
    choices = ("left", "right", "tie", "bad", "left")
    for n, (task, choice) in enumerate(zip(every, choices, strict=True)):
        one.add(vote(task, "ann", choice, n, reason="weil\u2028so 'ist' é"))
        one.add(vote(task, "bob", "tie", n))
    text = "\n".join(export.lines("votes", standing(one.log()), one.tasks())[0])
    found, votes = export.read_votes(text)
    for _ in range(2):
        two.keep(found)
        for sent in votes:
            two.add(sent)
    assert "\n".join(export.lines("votes", standing(two.log()), two.tasks())[0]) == text
    one.close()
    two.close()
    for broken in (
        text[:-20],
        text.replace('"blind": true', '"blind": "yes"', 1),
        text + '\n{"vote": 1}',
        "[]",
    ):
        with pytest.raises(DataError, match="is no vote"):
            export.read_votes(broken)


def test_votes_become_pairs_and_labels_that_a_data_stage_takes() -> None:
    every = tasks([table(5)])[0]
    known = {task.id: task for task in every}

    def for_model(task: Task, rater: str, model: str) -> Vote:
        return vote(task, rater, "left" if shown(task, rater)[0].model == model else "right", 0)

    a, b, c, d, e = every
    votes = [
        for_model(a, "ann", "xa"), for_model(a, "bob", "xa"), for_model(a, "cat", "xb"),  # a majority
        for_model(b, "ann", "xa"), for_model(b, "bob", "xb"),  # none
        replace(for_model(c, "ann", "xb"), consent=False),
        vote(d, "ann", "bad", 1),
        replace(for_model(e, "ann", "xb"), blind=False),
    ]  # fmt: skip
    written, account = export.lines("preferences", votes, known)
    [pair] = [json.loads(line) for line in written]
    replies = {side.model: side.reply for side in a.sides}
    assert (pair["chosen"], pair["rejected"]) == (replies["xa"], replies["xb"])
    assert (
        pair["meta"]["evaluation"] == "e1" and pair["meta"]["raters"] == 3 and pair["meta"]["consent"] is True
    )
    assert account == {"no majority": 2, "no consent": 1, "not blind": 1}
    assert record(pair, "preferences")
    marks, _ = export.lines("feedback", votes, known)
    labels = [(json.loads(line)["completion"], json.loads(line)["label"]) for line in marks]
    assert sorted(labels) == sorted(
        [(replies["xa"], 1), (replies["xb"], 0), *((side.reply, 0) for side in d.sides)]
    )
    assert all(record(json.loads(line), "feedback") for line in marks)
