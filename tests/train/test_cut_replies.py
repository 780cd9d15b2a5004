"""A context that is too short for the replies empties the signal: what that costs is left out, counted and told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny

from trivium.batches.chat import Conversations
from trivium.batches.feedback import Feedback
from trivium.batches.pairs import Pairs
from trivium.errors import DataError

PAIRED = ("reward", "dpo", "orpo")
START = "the cat sees the old book "
QUESTION = [{"role": "user", "content": "who?"}]


def pair(chosen: str, rejected: str) -> dict[str, Any]:
    return {"prompt": QUESTION, "chosen": chosen, "rejected": rejected}


def talk(reply: str) -> dict[str, Any]:
    return {"messages": [*QUESTION, {"role": "assistant", "content": reply}]}


LONG = [pair(START * 5 + "yes", START * 5 + "no") for _ in range(4)]
ONE_SIDE = [pair("yes", START * 5) for _ in range(4)]
GOOD = [pair("yes", f"no {number}") for number in range(6)]


def write(folder: Path, records: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "heldout.jsonl").write_text("")


def warnings(events: list[dict[str, Any]]) -> str:
    return "\n".join(event["message"] for event in events if event["event"] == "warning")


@pytest.mark.parametrize("kind", PAIRED)
def test_pairs_that_the_context_cuts_are_left_out_counted_and_told(tmp_path, kind):
    write(tmp_path / "data", [*GOOD, *LONG, *ONE_SIDE])
    events: list[dict[str, Any]] = []
    _, metrics = tiny.phase(kind, tmp_path, emit=events.append, steps=1)
    account = metrics["data"]
    assert (account["items"], account["pair_cut"], account["kept"]) == (6, 8, 12)
    assert account["rows_cut"] == list(range(7, 15))
    assert "8 pairs are left out: a reply would be cut" in warnings(events)


@pytest.mark.parametrize("kind", PAIRED)
@pytest.mark.parametrize("records", [LONG, ONE_SIDE])
def test_a_split_of_cut_pairs_is_refused(tmp_path, kind, records):
    write(tmp_path / "data", records)
    with pytest.raises(DataError, match="of 4 pairs a reply is"):
        tiny.phase(kind, tmp_path, steps=1)


def test_replies_of_the_same_tokens_prefer_nothing(chat):
    built = Pairs.build([*GOOD, pair("yes", "yes")], chat, 64)
    assert (built.count, built.account.pair_alike, built.account.rows_alike) == (6, 1, [7])
    assert "both replies are the same tokens (rows 7)" in str(built.account.warning("train", 64))


def test_a_reply_that_is_good_and_bad_at_once_is_no_feedback(chat):
    built = Feedback.build([*GOOD, *LONG], chat, 24)
    assert (built.count, built.account.pair_alike) == (12, 4)
    with pytest.raises(DataError, match="of 4 pairs both replies are the same tokens"):
        Feedback.build(LONG, chat, 24)


@pytest.mark.parametrize("kind", ["sft", "distill", "kto"])
def test_a_split_without_an_end_mark_is_refused_and_cut_replies_are_told(tmp_path, kind):
    def record(reply: str, number: int) -> dict[str, Any]:
        return (
            {"prompt": QUESTION, "completion": reply, "label": number % 2} if kind == "kto" else talk(reply)
        )

    endless = [record(f"{number} {START * 5}", number) for number in range(4)]
    write(tmp_path / "a" / "data", endless)
    with pytest.raises(DataError, match="none keeps its end mark"):
        tiny.phase(kind, tmp_path / "a", steps=1, batch=2)
    write(tmp_path / "b" / "data", [*endless, *(record("yes", number) for number in range(4))])
    events: list[dict[str, Any]] = []
    tiny.phase(kind, tmp_path / "b", emit=events.append, steps=1, batch=2)
    assert "4 replies are cut: nobody learns from them where to stop (rows 1, 2, 3, 4)" in warnings(events)


def test_a_cut_reply_has_no_end_mark(chat):
    built = Conversations.build([talk(START * 5)], chat, 24)
    assert built.account.rows_cut == [1]
    row = built.item(0)[0]
    assert chat.end not in row["targets"][row["loss_mask"] > 0]
