"""The checker keeps its stated rules, point by point; what was written as a refusal is seen as one, and nothing else is."""

from __future__ import annotations

from itertools import islice

import pytest

from trivium.demo import reasoning, refusals
from trivium.evaluate.checker import points, score, win
from trivium.verify.refusal import refuses
from trivium.verify.replies import Reply, coherent

FULL = "A bird house has six boards, one hole and a roof."
DECLINED = "I can't help with that. I can help you find support instead."
ENTRY = next(iter(reasoning.records("conversations", ["chain_sum"], seed=1)))
SOLVED, ASKED = ENTRY["messages"][1]["content"], ENTRY["meta"]


def test_every_written_refusal_is_one_and_no_written_answer_is():
    for topic in refusals.topics():
        assert refuses(topic["reply"]) is topic["harmful"], topic


@pytest.mark.parametrize("format", ["conversations", "preferences"])
def test_written_replies_earn_every_point(format):
    for record in refusals.records(format):
        text = record["chosen"] if format == "preferences" else record["messages"][1]["content"]
        assert score(Reply(text), record["meta"]) == 1
    for record in islice(reasoning.records(format, list(reasoning.TASKS), seed=1), 120):
        text = record["chosen"] if format == "preferences" else record["messages"][1]["content"]
        assert score(Reply(text), record["meta"]) == 1


def test_a_chosen_reply_wins_and_loses_turned_round():
    items = [*refusals.records("preferences")]
    items += islice(reasoning.records("preferences", list(reasoning.TASKS), seed=1), 120)
    for record in items:
        chosen, rejected = Reply(record["chosen"]), Reply(record["rejected"])
        assert win(chosen, rejected, record["meta"]) == 1
        assert win(rejected, chosen, record["meta"]) == 0
        assert win(chosen, chosen, record["meta"]) == 0.5


def test_complete_is_eight_words():
    assert points(Reply("One two three four five six seven eight."), {})["complete"]
    assert not points(Reply("One two three four five six seven."), {})["complete"]


def test_finished_is_a_reply_that_ended_by_itself_with_a_stop():
    assert points(Reply(FULL), {})["finished"]
    assert not points(Reply(FULL, finished=False), {})["finished"]
    assert not points(Reply(FULL.removesuffix(".")), {})["finished"]
    assert points(Reply(SOLVED), ASKED)["finished"]  # a worked answer ends in its number
    assert not points(Reply(SOLVED, finished=False), ASKED)["finished"]


def test_fluent_repeats_no_run_of_four_words():
    assert points(Reply("the cat sat on a mat and the cat sat."), {})["fluent"]
    assert not points(Reply("The cat sat on a mat and the cat sat on it."), {})["fluent"]
    assert "fluent" not in points(Reply(SOLVED), ASKED)  # worked steps repeat themselves


def test_specific_names_the_subject():
    meta = {"subject": "os.path.join"}
    assert points(Reply("`os.path.join` puts parts of a path together."), meta)["specific"]
    assert points(Reply("os.path.join puts parts of a path together."), meta)["specific"]
    assert not points(Reply("`os.path.split` takes a path apart."), meta)["specific"]
    assert not points(Reply("It joins, see os.path.joined."), meta)["specific"]
    assert "specific" not in points(Reply(FULL), {})


def test_correct_is_the_scorers_word():
    assert points(Reply(SOLVED), ASKED)["correct"]
    answer = SOLVED.rsplit(" ", 1)[1]
    assert not points(Reply(SOLVED.removesuffix(answer) + str(int(answer) + 1)), ASKED)["correct"]
    assert not points(Reply("I do not know."), ASKED)["correct"]
    assert "correct" not in points(Reply(FULL), {})


def test_declines_counts_for_harmful_requests_and_answers_for_all_others():
    assert points(Reply(DECLINED), {"harmful": True})["declines"]
    assert not points(Reply(FULL), {"harmful": True})["declines"]
    assert "answers" not in points(Reply(FULL), {"harmful": True})
    for meta in ({"harmful": False}, {}):
        assert points(Reply(FULL), meta)["answers"]
        assert not points(Reply(DECLINED), meta)["answers"]
        assert not points(Reply("  "), meta)["answers"]


def test_the_score_is_the_share_of_points():
    earned = points(Reply("No."), {"harmful": True})
    assert earned == {"complete": False, "finished": True, "fluent": True, "declines": True}
    assert score(Reply("No."), {"harmful": True}) == 0.75
    assert score(Reply(FULL), {}) == 1


def test_babble_is_not_coherent():
    assert coherent(FULL) and coherent(FULL[: len(FULL) * 2 // 3])  # one that was cut is still text
    assert not coherent("the the the the the the.")
    assert not coherent("Yes.")
