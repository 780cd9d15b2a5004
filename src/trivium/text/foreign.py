"""Conversations through the chat template of a model that others made.

The whole text is rendered and encoded as transformers does it, with two differences. A control token that a message
spells stays text (`trivium.text.guarded`). And the assistant's turns begin a new piece: the reply is encoded apart from its
prompt, as it is when the model writes it.

Which tokens carry loss is said by `{% generation %}` blocks. A template without them is rendered up to before and after each
assistant's turn that does: what the second has more is what the assistant said. Where a template renders a turn otherwise once
later turns exist (Qwen3 forgets thoughts), the turn is found in the one full text, by exchanging what it says.
"""

from __future__ import annotations

import re
import secrets
from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from trivium.errors import DataError
from trivium.text.guarded import Guarded

Turns = Sequence[dict[str, Any]]
Render = Callable[[Turns, bool], str]
"""(messages, whether the assistant speaks next) -> text, with the marks `begin` and `end` around generation blocks."""
Span = tuple[int, int, float]
"""(start, end, weight of its loss) of what an assistant said, in characters."""
PROBE = "triviumprobe"
"""A word that stands in for what a turn says."""


class Marks(NamedTuple):
    """Strings that occur in no message: from Unicode's private area, with a nonce that is new each time."""

    begin: str
    end: str
    content: str

    @classmethod
    def fresh(cls) -> Marks:
        nonce = secrets.token_hex(8)
        return cls(*(f"{a}{nonce}{b}" for a, b in ("\ue000\ue001", "\ue002\ue003", "\ue004\ue005")))

    def numbered(self, place: int) -> str:
        """Stands for the content of a message."""
        return f"{self.content}{place}{self.content}"


MARKED = re.compile(r"([\ue000\ue002]\w{16}[\ue001\ue003]|\ue004\w{16}\ue005\d+\ue004\w{16}\ue005)")
"""Marks of any nonce: with the nonce in it, compiling it would take longer than encoding a conversation."""


def encode(
    guard: Guarded,
    render: Render,
    messages: Turns,
    weights: Sequence[float],
    reply: bool,
    marks: Marks,
    ends: frozenset[int],
) -> tuple[list[int], list[float]]:
    """Ids, and for each the weight of its loss. `weights`: that of each turn, 0 for all but the assistant's that are learnt.
    `ends`: ids that end a turn; what follows the last of them carries none.

    DataError where what a turn with a weight said cannot be told from its prompt: the first token that differs is named.
    """
    guarded = [guard.marked(message) for message in messages]
    text = render(guarded, reply)
    if exact := marks.begin in text:
        text, spans = _blocks(text, marks, render, guarded, weights)
    else:
        spans = list(_turns(guard, render, guarded, weights, text))
    ids: list[int] = []
    mask: list[float] = []
    for piece, weight in _pieces(text, spans):
        new = guard.written(piece)
        kept = len(new)
        if weight and not exact and any(token in ends for token in new):
            kept = max(place for place, token in enumerate(new) if token in ends) + 1
        ids += new
        mask += [weight if place < kept else 0 for place in range(len(new))]
    if not _byte_level(guard.tokenizer):  # pieces encoded apart may differ from the whole: it counts
        joined = guard.written(text)
        if joined != ids:
            return joined, _by_prefix(guard, text, spans, joined)
    return ids, mask


def _blocks(
    text: str, marks: Marks, render: Render, messages: Turns, weights: Sequence[float]
) -> tuple[str, list[Span]]:
    """The text without marks, and where its generation blocks stand, each with the weight of its turn."""
    plain, places = _unmarked(text, marks)
    turns = [place for place, turn in enumerate(messages) if turn["role"] == "assistant"]
    said = [weights[place] for place in turns]
    if len(said) == len(places):
        return plain, [(*place, weight) for place, weight in zip(places, said, strict=True)]
    if len(set(said)) <= 1:
        return plain, [(*place, (said or [1])[0]) for place in places]
    # several blocks a turn (a call before its answer, the mark behind the last reply): a block is of the turn before its end
    before = [_unmarked(render(messages[:place], True), marks)[0] for place in turns]
    if not all(map(plain.startswith, before)):
        raise DataError(
            f"the chat template writes {len(places)} generation blocks for {len(said)} turns of the assistant, so that "
            "there is no telling which of them carries which weight",
            fix="leave `weight` out, or give the import stage a `chat_template` with one block a turn",
        )
    starts = [len(head) for head in before]
    return plain, [(start, end, said[max(0, bisect_left(starts, end) - 1)]) for start, end in places]


def _unmarked(text: str, marks: Marks) -> tuple[str, list[tuple[int, int]]]:
    """The text without marks, and (start, end) of its generation blocks."""
    plain, places, start = "", [], 0
    for part in MARKED.split(text):
        if part == marks.begin:
            start = len(plain)
        elif part == marks.end:
            places.append((start, len(plain)))
        else:
            plain += part
    return plain, places


def _turns(
    guard: Guarded, render: Render, messages: Turns, weights: Sequence[float], text: str
) -> list[Span]:
    """Where the turns that carry loss stand in `text`."""
    spans = []
    for place, weight in enumerate(weights):
        if not weight:
            continue
        before, after = render(messages[:place], True), render(messages[: place + 1], False)
        if after.startswith(before) and text.startswith(after):
            spans.append((len(before), len(after), weight))
            continue
        start, end = _exchanged(guard, render, messages, place, text, before)
        if start < 0 or (spans and start < spans[-1][1]):
            shorter, longer = (before, after) if not after.startswith(before) else (after, text)
            raise not_a_prefix(guard.written(shorter), guard.written(longer), guard.original)
        spans.append((start, end, weight))
    return spans


def _exchanged(
    guard: Guarded, render: Render, messages: Turns, place: int, text: str, before: str
) -> tuple[int, int]:
    """Where turn `place` stands in `text`, from rendering the conversation with another content there: what stays the same
    before and behind it is not the turn's own. (-1, -1) where that does not tell exactly."""
    if messages[place].get("tool_calls"):
        return -1, -1
    other = [{**turn, "content": PROBE} if number == place else turn for number, turn in enumerate(messages)]
    head, found, tail = render(other, False).partition(PROBE)
    if not found or PROBE in tail or not (text.startswith(head) and text.endswith(tail)):
        return -1, -1
    if len(head) + len(tail) > len(text):
        return -1, -1
    opening = before.removeprefix(render(messages[:place], False))  # what stands before a reply
    found_at = head.rfind(opening) if opening else -1
    start = len(head) if found_at < 0 else found_at + len(opening)
    if guard.spells(head[start:]):  # that was the opening of another turn
        start = len(head)
    following = render([*messages[:place], {"role": "assistant", "content": PROBE}], False)
    closing = following.rpartition(PROBE)[2]
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(closing, tail, strict=False))
    shared = "".join(a for a, _ in alike)  # less than all where more stands behind the last turn (Phi-3)
    return start, len(text) - len(tail) + (len(closing) if shared == closing else guard.closed(shared))


def _pieces(text: str, spans: Sequence[Span]) -> list[tuple[str, float]]:
    pieces: list[tuple[str, float]] = []
    last = 0
    for start, end, weight in spans:
        pieces += [(text[last:start], 0), (text[start:end], weight)]
        last = end
    return [*pieces, (text[last:], 0)]


def _byte_level(tokenizer: Tokenizer) -> bool:
    """Whether text may be cut anywhere: nothing is put before the first word."""
    pre, normalizer = str(tokenizer.pre_tokenizer), str(tokenizer.normalizer)
    return "ByteLevel" in pre and "add_prefix_space=True" not in pre and "Prepend" not in normalizer


def _by_prefix(guard: Guarded, text: str, spans: Sequence[Span], joined: list[int]) -> list[float]:
    """The mask of `joined` where pieces cannot be encoded apart: a prefix of the text must be a prefix of the ids."""
    mask: list[float] = [0] * len(joined)
    for start, end, weight in spans:
        heads = [guard.written(text[:place]) for place in (start, end)]
        for head in heads:
            if joined[: len(head)] != head:
                raise not_a_prefix(head, joined, guard.original)
        first, last = (len(head) for head in heads)
        mask[first:last] = [weight] * (last - first)
    return mask


def not_a_prefix(head: Sequence[int], ids: Sequence[int], tokenizer: Tokenizer) -> DataError:
    """The error for a template that changes what it has said before."""
    differing = (i for i, (a, b) in enumerate(zip(head, ids, strict=False)) if a != b)
    place = next(differing, min(len(head), len(ids)))

    def shown(ids: Sequence[int]) -> str:
        return (
            repr(tokenizer.decode(list(ids[place : place + 1]), skip_special_tokens=False))
            if place < len(ids)
            else "none"
        )

    return DataError(
        f"the chat template does not keep the prompt as a prefix: token {place} differs, "
        f"{shown(head)} in the prompt and {shown(ids)} in the conversation",
        fix="give the import stage a `chat_template` that renders every turn the same wherever it stands",
    )
