"""Conversations through the chat template of a model that others made.

The whole text is rendered and encoded as transformers does it, with two differences. A special token that a message
spells is cut in two, so that it stays text. And the assistant's turns begin a new piece: the reply is encoded apart from its
prompt, as it is when the model writes it.

Which tokens carry loss is said by `{% generation %}` blocks; a template without them is rendered up to before and after each
assistant's turn, and what the second has more is what the assistant said.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tokenizers import Tokenizer

from trivium.errors import DataError

Messages = Sequence[dict[str, str]]
Render = Callable[[Messages, bool], str]
"""(messages, whether the assistant speaks next) -> text, with the marks `begin` and `end` around generation blocks."""


class Marks(NamedTuple):
    """Strings that occur in no message. `content` cuts spelt special tokens."""

    begin: str
    end: str
    content: str


def guard(tokenizer: Tokenizer, text: str, mark: str) -> str:
    """`text` with `mark` after the first character of each special token that it spells."""
    for token in tokenizer.get_added_tokens_decoder().values():
        if token.special and token.content in text:
            text = text.replace(token.content, token.content[0] + mark + token.content[1:])
    return text


def encode(
    tokenizer: Tokenizer, render: Render, messages: Messages, reply: bool, marks: Marks, ends: frozenset[int]
) -> tuple[list[int], list[bool]]:
    """Ids, and for each whether it carries loss. `ends`: ids that end a turn; what follows the last of them carries none.

    DataError where the template does not keep a prompt as the beginning of what follows it: the first token that
    differs is named.
    """
    guarded = [{**one, "content": guard(tokenizer, one["content"], marks.content)} for one in messages]
    text = render(guarded, reply)
    if marks.begin in text:
        text, spans = _blocks(text, marks)
        exact = True
    else:
        spans = list(_turns(tokenizer, render, guarded, text, marks))
        exact = False
    ids: list[int] = []
    mask: list[bool] = []
    for piece, learn in _pieces(text, spans):
        new = _encode(tokenizer, piece, marks)
        kept = len(new)
        if learn and not exact and any(token in ends for token in new):
            kept = max(place for place, token in enumerate(new) if token in ends) + 1
        ids += new
        mask += [learn and place < kept for place in range(len(new))]
    if not _byte_level(tokenizer):  # pieces encoded apart may differ from the whole: it counts
        whole = _encode(tokenizer, text, marks)
        if whole != ids:
            return whole, _by_prefix(tokenizer, text, spans, whole, marks)
    return ids, mask


def _blocks(text: str, marks: Marks) -> tuple[str, list[tuple[int, int]]]:
    """The text without marks, and where its generation blocks stand."""
    plain, spans, start = "", [], 0
    for part in re.split(f"({re.escape(marks.begin)}|{re.escape(marks.end)})", text):
        if part == marks.begin:
            start = len(plain)
        elif part == marks.end:
            spans.append((start, len(plain)))
        else:
            plain += part
    return plain, spans


def _turns(
    tokenizer: Tokenizer, render: Render, messages: Messages, text: str, marks: Marks
) -> list[tuple[int, int]]:
    """Where the assistant's turns stand in `text`, from rendering the conversation up to before and after each."""
    spans = []
    for place, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before, after = render(messages[:place], True), render(messages[: place + 1], False)
        for shorter, longer in ((before, after), (after, text)):
            if not longer.startswith(shorter):
                raise not_a_prefix(
                    _encode(tokenizer, shorter, marks), _encode(tokenizer, longer, marks), tokenizer
                )
        spans.append((len(before), len(after)))
    return spans


def _pieces(text: str, spans: Sequence[tuple[int, int]]) -> list[tuple[str, bool]]:
    made, last = [], 0
    for start, end in spans:
        made += [(text[last:start], False), (text[start:end], True)]
        last = end
    return [*made, (text[last:], False)]


def _encode(tokenizer: Tokenizer, text: str, marks: Marks) -> list[int]:
    parts = [part for part in text.split(marks.content) if part]
    encoded = tokenizer.encode_batch(parts, add_special_tokens=False)
    return [number for part in encoded for number in part.ids]


def _byte_level(tokenizer: Tokenizer) -> bool:
    """Whether text may be cut anywhere: nothing is put before the first word."""
    pre, normalizer = str(tokenizer.pre_tokenizer), str(tokenizer.normalizer)
    return "ByteLevel" in pre and "add_prefix_space=True" not in pre and "Prepend" not in normalizer


def _by_prefix(
    tokenizer: Tokenizer, text: str, spans: Sequence[tuple[int, int]], whole: list[int], marks: Marks
) -> list[bool]:
    """The mask of `whole` where pieces cannot be encoded apart: a prefix of the text must be a prefix of the ids."""
    mask = [False] * len(whole)
    for start, end in spans:
        heads = [_encode(tokenizer, text[:place], marks) for place in (start, end)]
        for head in heads:
            if whole[: len(head)] != head:
                raise not_a_prefix(head, whole, tokenizer)
        first, last = (len(head) for head in heads)
        mask[first:last] = [True] * (last - first)
    return mask


def not_a_prefix(head: Sequence[int], whole: Sequence[int], tokenizer: Tokenizer) -> DataError:
    """The error for a template that changes what it has said before."""
    differing = (i for i, (a, b) in enumerate(zip(head, whole, strict=False)) if a != b)
    place = next(differing, min(len(head), len(whole)))

    def shown(ids: Sequence[int]) -> str:
        return (
            repr(tokenizer.decode(list(ids[place : place + 1]), skip_special_tokens=False))
            if place < len(ids)
            else "none"
        )

    return DataError(
        f"the chat template does not keep the prompt as a prefix: token {place} differs, "
        f"{shown(head)} in the prompt and {shown(whole)} in the conversation",
        fix="give the import stage a `chat_template` that renders every turn the same wherever it stands",
    )
