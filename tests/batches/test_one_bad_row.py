"""A law of all that reads conversations: a row that the template refuses costs that row, counted and told, not the stage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from trivium.batches.chat import Conversations
from trivium.batches.feedback import Feedback
from trivium.batches.pairs import Pairs
from trivium.batches.prompts import Prompts
from trivium.errors import DataError
from trivium.text.chat import ChatTokenizer

STRICT = (
    "{%- for m in messages -%}"
    "{%- if m['role'] == 'system' -%}{{ raise_exception('no system turn') }}{%- endif -%}"
    "{%- if loop.first and m['role'] == 'assistant' -%}{{ raise_exception('the user begins') }}{%- endif -%}"
    "{%- if m['role'] == 'assistant' -%}<|assistant|>{% generation %}{{ m['content'] }}<|end|>{% endgeneration %}"
    "{%- else -%}<|user|>{{ m['content'] }}<|end|>{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"
)
"""Refuses what the templates of Mistral and Gemma refuse."""


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


ASKED = [[turn("user", f"the {n}")] for n in range(6)]
BAD = {
    "no system turn": [turn("system", "a dog"), turn("user", "the 7")],
    "the user begins": [turn("assistant", "a dog"), turn("user", "the 7")],
    "no text": [turn("user", "\ud800")],
}


def chats(prompts: list[Any]) -> list[dict[str, Any]]:
    return [{"messages": [*prompt, turn("assistant", "no")]} for prompt in prompts]


def pairs(prompts: list[Any]) -> list[dict[str, Any]]:
    return [{"prompt": prompt, "chosen": "a dog", "rejected": "no"} for prompt in prompts]


def marked(prompts: list[Any]) -> list[dict[str, Any]]:
    return [{"prompt": prompt, "completion": "no", "label": n % 2} for n, prompt in enumerate(prompts)]


READERS: dict[str, tuple[Callable[[list[Any]], list[Any]], Callable[[list[Any], ChatTokenizer], Any]]] = {
    "sft": (chats, lambda rows, chat: Conversations.build(rows, chat, 64)),
    "pairs": (pairs, lambda rows, chat: Pairs.build(rows, chat, 64)),
    "feedback": (marked, lambda rows, chat: Feedback.build(rows, chat, 64)),
    "rollouts": (chats, lambda rows, chat: Prompts.build(rows, chat, 64, 6)),
}


@pytest.mark.parametrize("reason", BAD)
@pytest.mark.parametrize("phase", READERS)
def test_a_row_that_the_template_refuses_costs_one_row_counted_and_told(phase, reason, chat):
    made, build = READERS[phase]
    strict = ChatTokenizer(chat.tokenizer, STRICT)
    rows = made([*ASKED[:2], BAD[reason], *ASKED[2:]])
    built, without = build(rows, strict), build([*rows[:2], *rows[3:]], strict)
    refused = built.refused if phase == "rollouts" else built.account
    assert (refused.refused, refused.rows_refused) == (1, [3])
    shown = built.warning(64, 6) if phase == "rollouts" else built.account.warning("train", 64)
    assert "1 rows are left out (rows 3)" in shown and reason in shown
    assert built.count == without.count
    if phase != "rollouts":
        ids = [[row["tokens"].tolist() for row in each.item(0)] for each in (built, without)]
        assert ids[0] == ids[1]


@pytest.mark.parametrize("phase", READERS)
def test_where_no_row_is_left_the_first_refusal_is_the_error(phase, chat):
    made, build = READERS[phase]
    with pytest.raises(DataError, match="no system turn") as caught:
        build(made([BAD["no system turn"]] * 3), ChatTokenizer(chat.tokenizer, STRICT))
    assert caught.value.where == "row 1"
