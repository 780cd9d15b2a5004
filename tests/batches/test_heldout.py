"""Of what is held out only what a validation looks at is encoded, and that is what it would be among all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from trivium.batches.chat import RECENT, Conversations
from trivium.batches.feedback import Feedback
from trivium.batches.pairs import Pairs
from trivium.batches.translated import Translated

MOST, ALL = 12, 200


def records() -> list[dict[str, Any]]:
    made = []
    for n in range(ALL):
        prompt = [{"role": "user", "content": f"the {n % 50}"}]
        reply = "a dog " * (n % 3 + 1)
        turns = [*prompt, {"role": "assistant", "content": reply}]
        made.append({"prompt": prompt, "chosen": reply, "rejected": "no", "messages": turns})
    return made


BUILT = {
    "conversations": lambda rows, chat, most: Conversations.build(rows, chat, 48, most=most),
    "pairs": lambda rows, chat, most: Pairs.build(rows, chat, 48, length=48, most=most),
    "feedback": lambda rows, chat, most: Feedback.build(rows, chat, 48, most=most),
    "translated": lambda rows, chat, most: Translated.build(rows, chat, chat, 48, 48, most),
}


@pytest.mark.parametrize("kind", BUILT)
def test_law_the_first_items_are_the_same_and_the_rest_is_not_read(kind: str, chat: Any) -> None:
    read = 0

    def told() -> Iterator[dict[str, Any]]:
        nonlocal read
        for record in records():
            read += 1
            yield record

    whole, first = BUILT[kind](records(), chat, None), BUILT[kind](told(), chat, MOST)
    assert whole.items[:MOST] == first.items[:MOST]
    assert first.numbers[:MOST] == whole.numbers[:MOST]
    per_item = max(len(numbers) for numbers in whole.numbers)
    assert read <= (MOST + RECENT) * per_item + 1 < ALL
