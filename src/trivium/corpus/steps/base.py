"""What a step is, and what the steps share: a document's words, split once."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache, cached_property
from typing import Any, Protocol

import numpy as np

Document = dict[str, Any]
"""One document on its way: key, url, text, source, kind, license, origin, language, ... (a row of the artifact)."""

# Scripts written without spaces: each character counts as a word there.
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(r"\w+(?:[.'’]\w+)*|[^\w\s]{1,2}")
_WORD_UNSPACED = re.compile(
    rf"[{UNSPACED}]|[^\W{UNSPACED}]+(?:[.'’][^\W{UNSPACED}]+)*|[^\w\s{UNSPACED}]{{1,2}}"
)


def codepoints(text: str) -> np.ndarray:
    """(characters,) uint32: what a text is made of, to look at all of it at the speed of memory."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


_ALPHA, _ALNUM, _NO_SPACES = 1, 2, 4


@cache
def _kinds() -> np.ndarray:
    """(0x110000,) uint8: whether a character is a letter, a letter or digit, of a script without spaces."""
    kinds = np.zeros(0x110000, np.uint8)
    everything = "".join(map(chr, range(0x110000)))
    for run in re.finditer(r"[^\W_]+", everything):
        letters = np.fromiter(map(str.isalpha, run[0]), np.uint8, len(run[0]))
        kinds[run.start() : run.end()] = _ALNUM | (letters * np.uint8(_ALPHA))
    for run in re.finditer(f"[{UNSPACED}]+", everything):
        kinds[run.start() : run.end()] |= _NO_SPACES
    return kinds


def on_lines(text: str, places: list[int], change: Callable[[str], str]) -> str:
    """The text with `change` made to the lines that hold one of the places (ascending): the others are not looked at."""
    pieces, done = [], 0
    for place in places:
        if place < done:
            continue
        start, end = text.rfind("\n", 0, place) + 1, text.find("\n", place)
        end = len(text) if end < 0 else end
        pieces += [text[done:start], change(text[start:end])]
        done = end
    return "".join([*pieces, text[done:]]) if pieces else text


class Step(Protocol):
    """One thing done to every document. May change the text and add columns; gives the reason of a rejection."""

    @property
    def name(self) -> str: ...

    def __call__(self, document: Document) -> str | None: ...


class Words:
    """The words of a text: letters and digits, also around a full stop or an apostrophe (3.11, don't, os.path); other
    visible characters one or two at a time. Chosen to come closest to the tokens of spaCy, which datatrove counts.

    Everything here is counted once per *different* word, so that a rule costs little more than the split.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._unspaced = (
            0 if text.isascii() else int(np.count_nonzero(_kinds()[codepoints(text)] & _NO_SPACES))
        )
        self.all: list[str] = (_WORD_UNSPACED if self._unspaced else _WORD).findall(text)
        """In reading order, punctuation included."""
        self.distinct: list[str] = list(dict.fromkeys(self.all))

    @cached_property
    def ids(self) -> np.ndarray:
        """(words,) int64: the place of each word in `distinct`."""
        index = {word: number for number, word in enumerate(self.distinct)}
        return np.fromiter(map(index.__getitem__, self.all), np.int64, len(self.all))

    @cached_property
    def counts(self) -> np.ndarray:
        """(distinct,) int64: how often each word stands there."""
        return np.bincount(self.ids, minlength=len(self.distinct))

    @cached_property
    def distinct_lengths(self) -> np.ndarray:
        """(distinct,) int64: characters of each word."""
        return np.fromiter(map(len, self.distinct), np.int64, len(self.distinct))

    @cached_property
    def alphanumeric(self) -> np.ndarray:
        """(distinct,) bool: words with a letter or digit; the others are punctuation and symbols."""
        return self._any(_ALNUM)

    @cached_property
    def alphabetic(self) -> np.ndarray:
        """(distinct,) bool: words with at least one letter."""
        return self._any(_ALPHA)

    def _any(self, flag: int) -> np.ndarray:
        if not self.distinct:
            return np.zeros(0, bool)
        has = (_kinds()[codepoints("".join(self.distinct))] & flag) != 0
        starts = np.cumsum(self.distinct_lengths) - self.distinct_lengths
        found: np.ndarray = np.logical_or.reduceat(has, starts)
        return found

    @cached_property
    def lengths(self) -> np.ndarray:
        """(words,) int64: characters of each word, in reading order."""
        lengths: np.ndarray = self.distinct_lengths[self.ids]
        return lengths

    @cached_property
    def ends(self) -> np.ndarray:
        """(words + 1,) int64: characters of all words before each."""
        return np.concatenate(([0], np.cumsum(self.lengths)))

    @property
    def unspaced(self) -> bool:
        """Whether most of the text is in a script without spaces, where a word's length means nothing."""
        return self._unspaced * 2 > len(self.all)

    def keys(self, n: int) -> np.ndarray:
        """(words - n + 1,) uint64: a hash of each n words in a row; equal n-grams have equal keys."""
        key = self._mixed
        for shift in range(1, n):
            key = key[:-1] * _MULTIPLIER + self._mixed[shift:]
        return key

    @cached_property
    def _mixed(self) -> np.ndarray:
        mixed = (self.ids.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(32)
        mixed *= np.uint64(0xD6E8FEB86659FD93)
        return mixed ^ (mixed >> np.uint64(32))


_MULTIPLIER = np.uint64(0xFF51AFD7ED558CCD)


class Splitter:
    """Gives the words of a text, split once for all steps that ask for the same text in a row."""

    def __init__(self) -> None:
        self._last: Words | None = None

    def __call__(self, text: str) -> Words:
        if self._last is None or self._last.text is not text:
            self._last = Words(text)
        return self._last
