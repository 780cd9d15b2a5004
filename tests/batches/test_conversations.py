"""Conversations in rows: packing changes nothing that is learnt, and what is cut or dropped is counted."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trivium.batches.chat import Conversations
from trivium.batches.rows import Fixed
from trivium.errors import DataError
from trivium.objectives import NextToken


def talk(*turns: str) -> dict[str, list[dict[str, str]]]:
    """Turns of user and assistant, the user first."""
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns)]}


TALKS = [talk("the cat", "a dog " * n) for n in range(5)] + [
    talk("hi", "yes", "and", "the ball"),
    talk("x", ""),
]


def gradients(model, items: Conversations, micro: int) -> tuple[float, list[torch.Tensor]]:
    objective, total = NextToken(), 0.0
    model.zero_grad()
    for batch in Fixed(items.count, items.item, micro).batch(0):
        loss = objective(model(batch, objective.wants), batch).total
        loss.backward()
        total += float(loss.detach())
    found = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    return total, found


def test_packing_leaves_loss_and_gradients_of_the_whole_model(chat, model):
    packed = Conversations.build(TALKS, chat, 48)
    alone = Conversations.build(TALKS, chat, 48, pack=False)
    assert packed.count < alone.count == len(TALKS)
    (loss, found), (expected, wanted) = gradients(model, packed, 2), gradients(model, alone, 3)
    assert loss == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@settings(max_examples=30)
@given(talks=st.lists(st.lists(st.text("ab c", max_size=8), min_size=1, max_size=4), min_size=1, max_size=15))
def test_every_reply_is_in_exactly_one_row(chat, talks):
    records = [talk(*turns) for turns in talks]
    encoded = [chat.encode(record["messages"]) for record in records]
    kept = [one for one in encoded if any(one.mask)]  # 40 tokens hold the longest of these
    if not kept:
        return
    items = Conversations.build(records, chat, 64)
    learnt = []
    for index in range(items.count):
        row = items.item(index)[0]
        learnt += row["targets"][row["loss_mask"] > 0].tolist()
    assert sorted(learnt) == sorted(n for one in kept for n, m in zip(one.ids, one.mask, strict=True) if m)
    account = items.account
    assert (account.kept, account.no_reply) == (len(kept), len(encoded) - len(kept))
    assert account.learned_tokens == len(learnt)


def test_what_does_not_fit_is_counted(chat):
    long = "7" * 40
    items = Conversations.build(
        [talk("1", "2"), talk("1", long), talk(long, "2"), talk("only a question")], chat, 20
    )
    account = items.account
    assert (account.kept, account.reply_cut, account.prompt_too_long, account.no_reply) == (2, 1, 1, 1)
    assert account.learned_tokens == 2 + (20 - len(chat.prompt(talk("1")["messages"])))
    cut = max((items.item(i)[0] for i in range(items.count)), key=lambda row: row["loss_mask"].sum())
    assert (
        chat.end not in cut["targets"][cut["loss_mask"] > 0]
    )  # a reply cut short does not learn to stop there


def test_a_prompt_that_leaves_room_for_one_token_is_kept(chat):
    head = len(chat.prompt(talk("12345")["messages"]))
    assert Conversations.build([talk("12345", "2")], chat, head + 1).account.kept == 1
    with pytest.raises(DataError, match="1 prompts are longer than the context"):
        Conversations.build([talk("12345", "2")], chat, head)


@pytest.mark.parametrize("records", [[], [talk("q")], [{"messages": []}], [talk("7" * 50, "x")]])
def test_nothing_to_learn_is_a_data_error(chat, records):
    with pytest.raises(DataError, match="no conversation fits"):
        Conversations.build(records, chat, 16)


def test_the_last_turn_only_and_weights_of_turns(chat):
    def talk(**more):
        turns = [{"role": role, "content": text} for role, text in (("user", "a"), ("assistant", "b")) * 2]
        turns[1] |= more
        return {"messages": turns, "source": "x"}

    def masks(record, **how):
        return Conversations.build([record], chat, 64, **how).item(0)[0]["loss_mask"].tolist()

    every, last, half = masks(talk()), masks(talk(), learn="last"), masks(talk(weight=0.5))
    assert sum(every) == 2 * sum(last) == 4  # a letter and the end of each turn
    assert half == [(a + b) / 2 for a, b in zip(every, last, strict=True)]
    assert masks(talk(weight=0)) == last
