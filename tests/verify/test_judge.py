"""The judge: strict about what a grade is, and a verdict counts only if it does not depend on the order."""

from __future__ import annotations

import pytest

from trivium.verify.judge import LLMJudge

RECORD = {"prompt": [{"role": "user", "content": "Why?"}]}


@pytest.mark.parametrize(
    ("said", "score"),
    [("Good.\nScore: 10", 1), ("Score: 1", 0), ("Score: 4\n", 1 / 3), ("Score: 11", 0), ("Score: 7/10", 0), ("", 0),
     ("Score: 9\nI mean it", 0), ("I think the Score: 8", 0), ("Score: 0", 0)],
)  # fmt: skip
def test_grades_are_read_strictly(said, score):
    judge = LLMJudge(lambda asked: [said] * len(asked))
    assert judge(RECORD, "Because.") == pytest.approx(score)
    readable = said.strip().splitlines()[-1:] in (["Score: 10"], ["Score: 1"], ["Score: 4"])
    assert judge.counts == {"read" if readable else "unread": 1}


def test_the_request_and_the_reply_are_in_the_question_whatever_they_hold():
    seen = []
    judge = LLMJudge(lambda asked: seen.extend(asked) or ["Score: 5"] * len(asked), "brevity")
    talk = {
        "messages": [
            {"role": "system", "content": "{x}"},
            {"role": "user", "content": "Why {reply}?"},
            {"role": "assistant", "content": "old"},
        ]
    }
    judge(talk, "{request}")
    text = seen[0][0]["content"]
    assert "system: {x}\nuser: Why {reply}?" in text and "Reply:\n{request}\n" in text and "brevity" in text
    assert "old" not in text


def prefers(wanted):
    def ask(asked):
        replies = []
        for [turn] in asked:
            a = turn["content"].split("Reply A:\n")[1].split("\n")[0]
            replies.append(f"Better: {'A' if a == wanted else 'B'}")
        return replies

    return ask


def test_pairs_are_asked_in_both_orders():
    assert LLMJudge(prefers("one")).compare([(RECORD, "one", "two")]) == [1]
    assert LLMJudge(prefers("two")).compare([(RECORD, "one", "two")]) == [0]
    first = LLMJudge(lambda asked: ["Better: A"] * len(asked))
    assert first.compare([(RECORD, "one", "two")] * 2) == [0.5, 0.5]
    assert first.counts == {"swayed by the order": 2}
    vague = LLMJudge(lambda asked: ["Better: A or B"] * len(asked))
    assert vague.compare([(RECORD, "one", "two")]) == [0.5]
    assert vague.counts == {"unread": 1}
