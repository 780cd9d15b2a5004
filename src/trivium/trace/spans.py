"""The runs of a reply that stand verbatim in a corpus: found from every character of the reply on, the longest kept.

A corpus holds tokens, and the same words become other tokens where something else stands before them. So the reply is encoded
again from each of its characters on: as far as `AHEAD` characters go, and behind them as the whole reply is encoded, from a place
on at which both cut alike. Every run of tokens that begins there is looked up in the suffix arrays: the first tokens of all of
them side by side, the rest of those that are there one by one.

Liu et al. 2025 (OLMoTrace, arXiv 2504.07096): maximal spans, and their rank by the product of their tokens' frequencies.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from trivium.text.chat import ChatTokenizer
from trivium.trace.index import SIDE, Block, Index, Match

AHEAD = 64
"""Characters that are encoded anew at each place of the reply."""
REACH = 16
"""Characters before the end of those, where the cut that follows no longer shows."""
LONGEST = 2**16
"""Tokens of the longest run that is looked up at once."""


class Cut(NamedTuple):
    """A text as tokens: ids, and where each begins and ends in it (characters)."""

    ids: list[int]
    starts: list[int]
    ends: list[int]


class Span(NamedTuple):
    """A run of a reply, from character `start` to `end`, and the tokens of the corpus that it is."""

    start: int
    end: int
    ids: tuple[int, ...]


@dataclass
class Found:
    """A span, and where it is: the suffixes of each block that begin with it, by the number of the index."""

    span: Span
    places: list[tuple[int, Block, Match]] = field(default_factory=list)

    @property
    def count(self) -> int:
        return sum(block.count(match) for _, block, match in self.places)


def cut(chat: ChatTokenizer, texts: Sequence[str]) -> list[Cut]:
    """Texts as the corpus encodes them, without the marks around a document."""
    encodings = chat.guard.tokenizer.encode_batch(list(texts), add_special_tokens=False)
    found = []
    for encoding in encodings:
        offsets = encoding.offsets
        found.append(Cut(encoding.ids, [start for start, _ in offsets], [end for _, end in offsets]))
    return found


def _whole(found: Cut, count: int) -> int:
    """The end of the first `count` tokens in characters: of a character that is cut in two nothing belongs to them."""
    end = found.ends[count - 1]
    return min(end, found.starts[count]) if count < len(found.ids) else end


def _joined(whole: Cut, boundary: dict[int, int], ahead: Cut, offset: int) -> Cut:
    """The tokens of a text from character `offset` on: `ahead` up to a place where `whole` is cut, too, then those of `whole`."""
    shift = _moved(ahead, offset)
    last = offset + AHEAD - REACH
    for place in range(len(shift.ids) - 1, -1, -1):
        start = shift.starts[place]
        if start <= last and start in boundary and (not place or shift.ends[place - 1] <= start):
            rest = slice(boundary[start], boundary[start] + LONGEST)
            return Cut(*(mine[:place] + other[rest] for mine, other in zip(shift, whole, strict=True)))
    return shift


def candidates(text: str, chat: ChatTokenizer) -> Iterable[Cut]:
    """For each character of a text, the tokens that it is from there on."""
    (whole,) = cut(chat, [text])
    boundary: dict[int, int] = {}
    for number, start in enumerate(whole.starts):
        if not number or whole.ends[number - 1] <= start:
            boundary.setdefault(start, number)
    for offset, ahead in enumerate(cut(chat, [text[place : place + AHEAD] for place in range(len(text))])):
        more = offset + AHEAD < len(text)
        yield _joined(whole, boundary, ahead, offset) if more else _moved(ahead, offset)


def _moved(found: Cut, offset: int) -> Cut:
    return Cut(found.ids, [start + offset for start in found.starts], [end + offset for end in found.ends])


def maximal(text: str, chat: ChatTokenizer, indexes: Sequence[Index], least: int) -> list[Found]:
    """The spans of `least` tokens or more that no other one holds, in the order of the text."""
    cuts = [
        (offset, tokens) for offset, tokens in enumerate(candidates(text, chat)) if len(tokens.ids) >= least
    ]
    width = min(least, SIDE)
    first = np.array([tokens.ids[:width] for _, tokens in cuts], np.int64).reshape(len(cuts), width)
    sifted = [index.sift(first) for index in indexes]
    kept: list[Found] = []
    reach = -1
    for number, (offset, tokens) in enumerate(cuts):
        if not any(blocks[number] for blocks in sifted):
            continue
        ends = range(len(tokens.ids) + 1)
        # fewer tokens end where an earlier span does, or before
        need = bisect_right(ends, max(reach, offset), lo=least, key=lambda count: _whole(tokens, count))
        places: list[tuple[int, Block, Match]] = []
        for corpus, (index, blocks) in enumerate(zip(indexes, sifted, strict=True)):
            for block, low in blocks[number] if need < len(ends) else ():
                match = block.longest(index.query(tokens.ids), low=low, least=need)
                if match is not None:
                    places = [*(places if match.length == need else []), (corpus, block, match)]
                    need = match.length
        if places:
            reach = _whole(tokens, need)
            kept.append(Found(Span(offset, reach, tuple(tokens.ids[:need])), places))
    return kept


def improbability(span: Span, rarity: Mapping[int, float]) -> float:
    """-log of the product of the tokens' frequencies in the corpora, in nats: how far from chance the span is. `rarity`: that of
    each token (`rarities`)."""
    return sum(rarity[token] for token in span.ids)


def rarities(spans: Iterable[Span], indexes: Sequence[Index]) -> dict[int, float]:
    """-log of the frequency in the corpora of each token that is in a span, in nats."""
    ids = sorted({token for span in spans for token in span.ids})
    total = sum(index.tokens for index in indexes)
    counts = sum((index.counts(ids) for index in indexes), np.zeros(len(ids), np.int64))
    return {token: math.log(total / max(1, count)) for token, count in zip(ids, counts.tolist(), strict=True)}
