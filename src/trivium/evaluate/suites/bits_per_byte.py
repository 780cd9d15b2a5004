"""How well a model predicts held-out documents: -log2 p(text) per UTF-8 byte, which compares models of different tokenizers.

Each document is read from its own beginning and cut at the context. Its first token has nothing before it and is not scored, nor
are its bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from trivium.evaluate.asked import Answer, Item, SuiteKind, heldout, some
from trivium.evaluate.rows import HIT, Undecided, Verdict
from trivium.evaluate.subject import Subject
from trivium.recipe.suites import BitsPerByte
from trivium.text.chat import ChatTokenizer


def items(suite: BitsPerByte, folder: Path | None) -> list[Item]:
    return some(heldout(suite, folder), suite)


def ask(
    subject: Subject, items: Sequence[Item], suite: BitsPerByte, baseline: Subject | None
) -> list[Answer]:
    texts = [subject.chat.document(str(item.record["text"]))[: subject.context] for item in items]
    sums = subject.log_probs([(ids, [True] * len(ids)) for ids in texts])
    return [
        Answer(ids=ids, numbers={"bits": (-total / math.log(2), float(_bytes(subject.chat, ids[1:])))})
        for ids, (total, _) in zip(texts, sums, strict=True)
    ]


def _bytes(chat: ChatTokenizer, ids: Sequence[int]) -> int:
    """UTF-8 bytes that ids stand for, also where they begin or end inside a character: a byte-level token has a letter a byte."""
    special = chat.tokenizer.get_added_tokens_decoder()
    return sum(len(chat.tokenizer.id_to_token(i) or "") for i in ids if i not in special)


def judge(item: Item, answer: Answer) -> list[Verdict]:
    bits, size = answer.numbers["bits"]
    if len(answer.ids) < 2:
        return [Verdict("bits", Undecided("the document has nothing to predict"))]
    return [Verdict("bits", HIT, bits, size)]


SUITE = SuiteKind(items, ask, judge)
