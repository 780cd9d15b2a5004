"""What a word is, for every step: cut once a text, by arrays over all its characters.

`Words` is what rules count (punctuation stands apart), `plain` what texts are compared by (lower-case, without it). In scripts
that are written without spaces each character is a word, in both.
"""

from __future__ import annotations

import re
from functools import cache, cached_property

import numpy as np

# Scripts written without spaces: each character counts as a word there.
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff66-\uff9f\U00020000-\U000323af"
)


def _pattern(unspaced: str, rulers: bool) -> re.Pattern[str]:
    letter, symbol = rf"[^\W{unspaced}]", rf"[^\w\s{unspaced}]"
    pair = f"{symbol}{{1,2}}"
    if rulers:
        ruler = rf"({symbol})\1\1"
        pair = rf"{ruler}\1*|{symbol}(?:(?!({symbol})\2\2){symbol})?"
    alone = f"[{unspaced}]|" if unspaced else ""
    return re.compile(rf"{alone}{letter}+(?:[.'’]{letter}+)*|{pair}")


_WORD, _WORD_UNSPACED = _pattern("", False), _pattern(UNSPACED, False)
_RULED, _RULED_UNSPACED = _pattern("", True), _pattern(UNSPACED, True)


def codepoints(text: str) -> np.ndarray:
    """(characters,) uint32: what a text is made of, to look at all of it at the speed of memory."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


_SPACE, _IN_WORD, _OTHER, ALONE, _JOINER = range(5)
CLASS, _ALPHA, _ALNUM, WORD = 7, 8, 16, 32


@cache
def kinds() -> np.ndarray:
    """(0x110000,) uint8: what a character is to the split (by the same patterns as `_WORD_UNSPACED`), whether it is a
    letter, a letter or digit, and `\\w`."""
    found = np.full(0x110000, _OTHER, np.uint8)
    everything = "".join(map(chr, range(0x40000)))  # beyond, there are no letters, digits or white space
    for kind, pattern in (
        (_SPACE, r"\s+"),
        (_IN_WORD, r"\w+"),
        (ALONE, f"[{UNSPACED}]+"),
        (_JOINER, "[.'’]"),
    ):
        for run in re.finditer(pattern, everything):
            found[run.start() : run.end()] = kind
    for run in re.finditer(r"\w+", everything):
        found[run.start() : run.end()] |= WORD
    for run in re.finditer(r"[^\W_]+", everything):
        letters = np.fromiter(map(str.isalpha, run[0]), np.uint8, len(run[0]))
        found[run.start() : run.end()] |= _ALNUM | (letters * np.uint8(_ALPHA))
    return found


@cache
def _ascii_kinds() -> bytes:
    return kinds()[:256].tobytes()


class Words:
    """The words of a text: letters and digits, also around a full stop or an apostrophe (3.11, don't, os.path); other
    visible characters one or two at a time, and a ruler (-----, ..., three or more of one) as a whole. Chosen to come closest
    to the tokens of spaCy, which datatrove counts.

    The split is made with arrays over all characters at once, and a word is known by its hash: rules that only count
    need no strings, which cost more than all the counting.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        if text.isascii():
            data = text.encode()
            points: np.ndarray = np.frombuffer(data, np.uint8)
            found = np.frombuffer(data.translate(_ascii_kinds()), np.uint8)
        else:
            points = codepoints(text)
            found = kinds().take(points)
        classes = found & CLASS
        joiners = np.flatnonzero(classes == _JOINER)
        classes[joiners] = _OTHER
        inner = joiners[(joiners > 0) & (joiners < len(points) - 1)]
        joins = (classes[inner - 1] == _IN_WORD) & (classes[inner + 1] == _IN_WORD)
        classes[inner[joins]] = _IN_WORD
        before = np.concatenate(([np.uint8(_SPACE)], classes[:-1]))
        begins = (classes != before) | (classes == ALONE)
        symbols = np.flatnonzero(classes == _OTHER)
        same = (np.diff(symbols) == 1) & (points[symbols[1:]] == points[symbols[:-1]])
        self._ruled = bool((same[1:] & same[:-1]).any())
        begins[_pairs_and_rulers(symbols, same) if self._ruled else _every_second(symbols)] = True
        visible = np.flatnonzero(classes)  # places, not a mask: several times as fast to take by
        self._after_space = (before == _SPACE).take(visible)
        self._points = points.take(visible)
        self._found = found.take(visible)
        self._begins = np.flatnonzero(begins.take(visible))
        self._unspaced = int(np.count_nonzero(classes == ALONE))

    def __len__(self) -> int:
        return len(self._begins)

    @cached_property
    def all(self) -> list[str]:
        """In reading order, punctuation included."""
        if self._ruled:
            ruled = _RULED_UNSPACED if self._unspaced else _RULED
            return [found[0] for found in ruled.finditer(self.text)]
        words: list[str] = (_WORD_UNSPACED if self._unspaced else _WORD).findall(self.text)
        return words

    @cached_property
    def distinct(self) -> list[str]:
        return list(dict.fromkeys(self.all))

    @cached_property
    def ids(self) -> np.ndarray:
        """(words,) int64: the place of each word in `distinct`."""
        index = {word: number for number, word in enumerate(self.distinct)}
        return np.fromiter(map(index.__getitem__, self.all), np.int64, len(self.all))

    @cached_property
    def alphanumeric(self) -> np.ndarray:
        """(words,) bool: words with a letter or digit; the others are punctuation and symbols."""
        found: np.ndarray = (self._has & _ALNUM) != 0
        return found

    def alphabetic_share(self) -> float:
        """Of what stands between white space and has a letter or digit, the share with a letter: `trade[3].` is one word with
        letters here, not four of which one has some."""
        starts = np.flatnonzero(self._after_space)
        has = np.bitwise_or.reduceat(self._found, starts) if len(starts) else self._found
        counted = np.count_nonzero(has & _ALNUM)
        return int(np.count_nonzero(has & _ALPHA)) / counted if counted else 0.0

    @cached_property
    def _has(self) -> np.ndarray:
        has: np.ndarray = np.bitwise_or.reduceat(self._found, self._begins) if len(self) else self._found
        return has

    @cached_property
    def lengths(self) -> np.ndarray:
        """(words,) int64: characters of each word, in reading order."""
        lengths: np.ndarray = np.diff(self.ends)
        return lengths

    @cached_property
    def ends(self) -> np.ndarray:
        """(words + 1,) int64: characters of all words before each."""
        return np.append(self._begins, len(self._points))

    @property
    def unspaced(self) -> bool:
        """Whether most of the text is in a script without spaces, where a word's length means nothing."""
        return self._unspaced * 2 > len(self)

    @cached_property
    def hashes(self) -> np.ndarray:
        """(words,) uint64: equal for equal words; `word_hash` gives the same of a string."""
        if not len(self):
            return np.zeros(0, np.uint64)
        return _hashed(self._points, self._begins, self.lengths)

    def has(self, words: np.ndarray) -> np.ndarray:
        """(n,) bool: which of the words with these hashes (n,) stand there."""
        found: np.ndarray = (words[:, None] == self.hashes).any(
            axis=1
        )  # the long axis last: several times as fast
        return found

    def keys(self, n: int) -> np.ndarray:
        """(words - n + 1,) uint64: a hash of each n words in a row; equal n-grams have equal keys."""
        return _in_a_row(self._mixed, n)

    @cached_property
    def _mixed(self) -> np.ndarray:
        return _mixed(self.hashes)


_MULTIPLIER = np.uint64(0xFF51AFD7ED558CCD)
_POWERS = np.cumprod(np.full(4096, 0x5851F42D4C957F2D, np.uint64))
"""Of an odd number, modulo 2^64: a word is hashed as a polynomial of its characters."""


def word_hash(word: str) -> int:
    """64 bits of a word, as in `Words.hashes`."""
    points = codepoints(word)
    return int(np.sum(points * _POWERS[np.arange(len(points)) & (len(_POWERS) - 1)], dtype=np.uint64))


def plain_keys(text: str, n: int) -> np.ndarray:
    """(words - n + 1,) uint64: a hash of each n words in a row of `plain(text)`, the same in every process; empty for shorter
    texts."""
    points = codepoints(plain(text)).copy()
    spaces = np.flatnonzero(points == ord(" "))
    if not len(points) or len(spaces) + 1 < n:
        return np.zeros(0, np.uint64)
    points[spaces] = 0  # adds nothing to the word before it
    begins = np.append(0, spaces + 1)
    return _in_a_row(_mixed(_hashed(points, begins, np.diff(begins, append=len(points)))), n)


def _hashed(points: np.ndarray, begins: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """(words,) uint64: of words that begin and end within `points` (characters,)."""
    within = np.arange(len(points)) - np.repeat(begins, lengths)
    hashes: np.ndarray = np.add.reduceat(points * _POWERS[within & (len(_POWERS) - 1)], begins)
    return hashes


def _mixed(hashes: np.ndarray) -> np.ndarray:
    mixed = (hashes + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(32)
    mixed *= np.uint64(0xD6E8FEB86659FD93)
    return mixed ^ (mixed >> np.uint64(32))


def _in_a_row(mixed: np.ndarray, n: int) -> np.ndarray:
    key = mixed
    for shift in range(1, n):
        key = key[:-1] * _MULTIPLIER + mixed[shift:]
    return key


def _every_second(places: np.ndarray) -> np.ndarray:
    """Of ascending places: the first, third, fifth... of each run of neighbours."""
    if not len(places):
        return places
    first = np.concatenate(([True], np.diff(places) != 1))
    begin = np.maximum.accumulate(np.where(first, places, 0))
    second: np.ndarray = places[(places - begin) % 2 == 0]
    return second


def _pairs_and_rulers(places: np.ndarray, same: np.ndarray) -> np.ndarray:
    """Of ascending places of symbols, where words begin. same (places - 1,) bool: the next one is its neighbour and its like."""
    starts = np.concatenate(([True], ~same))
    group = np.cumsum(starts) - 1
    ruler = np.bincount(group)[group] >= 3
    first = np.concatenate(([True], np.diff(places) != 1))
    first[1:] |= (ruler[1:] != ruler[:-1]) | (ruler[1:] & starts[1:])
    place = np.arange(len(places))
    within = place - np.maximum.accumulate(np.where(first, place, 0))
    begins: np.ndarray = places[np.where(ruler, within == 0, within % 2 == 0)]
    return begins


class Splitter:
    """Gives the words of a text, split once for all steps that ask for the same text in a row."""

    def __init__(self) -> None:
        self._last: Words | None = None

    def __call__(self, text: str) -> Words:
        if self._last is None or self._last.text is not text:
            self._last = Words(text)
        return self._last


_LETTERS = re.compile(r"\w+")
_ALONE = re.compile(f"([{UNSPACED}])")


def unspaced(text: str) -> bool:
    """Whether there is a script in it that is written without spaces."""
    return not text.isascii() and _ALONE.search(text) is not None


def plain(text: str) -> str:
    """Lower-case words with a space between: the form that is compared. Scripts without spaces: each character."""
    if text.isascii():
        return b" ".join(text.encode().translate(_lower_words()).split()).decode()
    points = codepoints(text.lower())
    found = kinds().take(points)
    word = (found & WORD) != 0
    alone = word & ((found & CLASS) == ALONE)
    if alone.any():  # a space before and behind each of them
        places = np.arange(len(points)) + 2 * np.cumsum(alone) - alone
        spaced = np.zeros(len(points) + 2 * np.count_nonzero(alone), np.uint32)
        spaced[places[word]] = points[word]
        points, word = spaced, spaced != 0
    kept = word.copy()
    kept[1:] |= word[:-1]  # of what stands between two words, one character, as a space
    only = np.where(word, points, np.uint32(ord(" ")))[kept]
    plain_text: str = only.tobytes().decode("utf-32-le", "surrogatepass").strip(" ")
    return plain_text


@cache
def _lower_words() -> bytes:
    """A table for ASCII: letters lower-case, digits and `_` as they are, all else spaces."""
    return bytes(
        ord(chr(code).lower()) if code < 128 and _LETTERS.match(chr(code)) else 32 for code in range(256)
    )
