"""Where two tokenizers agree: spans of a reply that begin and end alike in both, and the tokens that both have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tokenizers import Tokenizer

from trivium.text.chat import ChatTokenizer, Encoded


class Span(NamedTuple):
    """Places in two lists of ids that stand for the same text: both from `start` up to, without, `end`."""

    ours: tuple[int, int]
    theirs: tuple[int, int]


def ends(tokenizer: Tokenizer, ids: Sequence[int]) -> list[int | None]:
    """Where in the decoded text each token ends, in characters; None inside of a character, or for a token without text."""
    places: list[int | None] = []
    begin = read = done = 0  # decoded from `begin` on, as what a token says may hang on the one before it
    for number in range(1, len(ids) + 1):
        before = tokenizer.decode(list(ids[begin:read]), skip_special_tokens=False)
        now = tokenizer.decode(list(ids[begin:number]), skip_special_tokens=False)
        if now.endswith("\ufffd") or len(now) <= len(before):
            places.append(None)
            continue
        done += len(now) - len(before)
        begin, read = read, number
        places.append(done)
    return places


def common(ours: Sequence[int | None], theirs: Sequence[int | None]) -> Iterator[Span]:
    """The shortest spans that both sides' tokens make up, in order, from where each token ends (`ends`)."""
    there = {end: place for place, end in enumerate(theirs) if end is not None}
    a = b = 0
    for place, end in enumerate(ours):
        if end is not None and end in there:
            yield Span((a, place + 1), (b, there[end] + 1))
            a, b = place + 1, there[end] + 1


def align(us: ChatTokenizer, ours: Encoded, them: ChatTokenizer, theirs: Encoded) -> tuple[list[Span], int]:
    """The spans of what carries loss in one conversation, encoded by both, and how many replies read differently in the two.

    The token that ends a turn stands for itself: one span, whatever it is called.
    """
    found: list[Span] = []
    here, there = list(_learned(ours.mask)), list(_learned(theirs.mask))
    if len(here) != len(there):
        return [], max(len(here), len(there))
    other = 0
    for (a, b), (c, d) in zip(here, there, strict=True):
        mine, yours = _body(us, ours.ids[a:b]), _body(them, theirs.ids[c:d])
        if us.tokenizer.decode(mine, skip_special_tokens=False) != them.tokenizer.decode(
            yours, skip_special_tokens=False
        ):
            other += 1
            continue
        for span in common(ends(us.tokenizer, mine), ends(them.tokenizer, yours)):
            found.append(Span((a + span.ours[0], a + span.ours[1]), (c + span.theirs[0], c + span.theirs[1])))
        at, place = a + len(mine), c + len(yours)
        if at < b and place < d:
            found.append(Span((at, at + 1), (place, place + 1)))
    return found, other


def _learned(mask: Sequence[float]) -> Iterator[tuple[int, int]]:
    """Runs of tokens that carry loss."""
    start = None
    for place, weight in enumerate([*mask, 0]):
        if weight and start is None:
            start = place
        elif not weight and start is not None:
            yield start, place
            start = None


def _body(chat: ChatTokenizer, ids: Sequence[int]) -> list[int]:
    """A reply in front of the token that ends it."""
    stops = frozenset(chat.stops)
    return list(ids[: next((place for place, token in enumerate(ids) if token in stops), len(ids))])


def shared(us: ChatTokenizer, them: ChatTokenizer) -> tuple[list[int], list[int]]:
    """Ids of the tokens that both have, pairwise: of the same name (a space is `Ġ` in some tokenizers and `▁` in others), and the
    ones that end a turn."""
    ours, theirs = (
        {
            token.replace("▁", "Ġ"): number
            for token, number in chat.tokenizer.get_vocab().items()
            if number != chat.end
        }
        for chat in (us, them)
    )
    pairs = [(number, theirs[token]) for token, number in ours.items() if token in theirs]
    pairs = sorted([*pairs, (us.end, them.end)])
    return [ours for ours, _ in pairs], [theirs for _, theirs in pairs]
