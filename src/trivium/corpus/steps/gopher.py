"""Gopher's rules: quality and repetition (Rae et al. 2021, arXiv:2112.11446, appendix A.1.1 and table A1).

Two readings that the paper leaves open are those of datatrove: the n-gram shares divide characters of words by all characters
of the text, and a duplicated n-gram is not looked into again, so that no character counts twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from trivium.corpus.steps.base import Document
from trivium.corpus.words import Splitter, Words, word_hash
from trivium.recipe.steps import Gopher, GopherRepetition

BULLETS = ("•", "-")
ELLIPSES = ("...", "…")
_PARAGRAPHS = re.compile(r"\n{2,}")


class GopherStep:
    name = "gopher"
    changes = False

    def __init__(self, config: Gopher, split: Splitter, language: str) -> None:
        self.config, self.split, self.language = config, split, language
        self.stop_words = {
            code: np.array([word_hash(word) for word in sorted(set(words))], np.uint64)
            for code, words in config.stop_words.items()
        }

    def __call__(self, document: Document) -> str | None:
        words = self.split(document["text"])
        failed = self._lengths(words) or self._lines(words) or self._vocabulary(words, document)
        return f"gopher:{failed}" if failed else None

    def _lengths(self, words: Words) -> str | None:
        limit = self.config
        total = int(np.count_nonzero(words.alphanumeric))
        if total < (limit.min_words or 0) or not len(words):
            return "min_words"
        if limit.max_words is not None and total > limit.max_words:
            return "max_words"
        if total and not words.unspaced:
            mean = int(words.lengths[words.alphanumeric].sum()) / total
            if limit.min_mean_word_length is not None and mean < limit.min_mean_word_length:
                return "min_mean_word_length"
            if limit.max_mean_word_length is not None and mean > limit.max_mean_word_length:
                return "max_mean_word_length"
        return None

    def _lines(self, words: Words) -> str | None:
        limit, text = self.config, words.text
        count = len(words)
        if limit.max_hashes is not None and text.count("#") / count > limit.max_hashes:
            return "max_hashes"
        ellipses = sum(map(text.count, ELLIPSES))
        if limit.max_ellipses is not None and ellipses / count > limit.max_ellipses:
            return "max_ellipses"
        lines = text.splitlines()
        most = sum(map(text.count, BULLETS)) / len(lines)  # counting marks is faster than looking at lines
        if limit.max_bullet_lines is not None and most > limit.max_bullet_lines:
            bullets = sum(line.lstrip().startswith(BULLETS) for line in lines)
            if bullets / len(lines) > limit.max_bullet_lines:
                return "max_bullet_lines"
        if limit.max_ellipsis_lines is not None and ellipses / len(lines) > limit.max_ellipsis_lines:
            ending = sum(line.rstrip().endswith(ELLIPSES) for line in lines)
            if ending / len(lines) > limit.max_ellipsis_lines:
                return "max_ellipsis_lines"
        return None

    def _vocabulary(self, words: Words, document: Document) -> str | None:
        limit = self.config
        if limit.min_alphabetic_words is not None and words.alphabetic_share() < limit.min_alphabetic_words:
            return "min_alphabetic_words"
        needed = limit.min_stop_words
        stop_words = self.stop_words.get(document.get("language") or self.language)
        if (
            needed
            and stop_words is not None
            and len(stop_words)
            and int(words.has(stop_words).sum()) < needed
        ):
            return "min_stop_words"
        return None


class GopherRepetitionStep:
    name = "gopher_repetition"
    changes = False

    def __init__(self, config: GopherRepetition, split: Splitter) -> None:
        self.config, self.split = config, split
        self.top = _limits({2: config.top_2gram, 3: config.top_3gram, 4: config.top_4gram})
        self.duplicate = _limits(
            {
                5: config.duplicate_5gram,
                6: config.duplicate_6gram,
                7: config.duplicate_7gram,
                8: config.duplicate_8gram,
                9: config.duplicate_9gram,
                10: config.duplicate_10gram,
            }
        )

    def __call__(self, document: Document) -> str | None:
        text: str = document["text"]
        if not text:
            return "gopher_repetition:empty"
        failed = next(self._failed(text), None)
        return f"gopher_repetition:{failed}" if failed else None

    def _failed(self, text: str) -> Iterator[str]:
        limit = self.config
        repeated, characters = duplicates(_paragraphs(text.strip()))
        if limit.duplicate_paragraphs is not None and repeated > limit.duplicate_paragraphs:
            yield "duplicate_paragraphs"
        share = limit.duplicate_paragraph_characters
        if share is not None and characters / len(text) > share:
            yield "duplicate_paragraph_characters"
        repeated, characters = duplicates(_lines(text))
        if limit.duplicate_lines is not None and repeated > limit.duplicate_lines:
            yield "duplicate_lines"
        share = limit.duplicate_line_characters
        if share is not None and characters / len(text) > share:
            yield "duplicate_line_characters"
        words = self.split(text)
        yield from self._top(words)
        yield from self._duplicated(words)

    def _top(self, words: Words) -> Iterator[str]:
        size, most = len(words.text), len(words)
        for n, share in self.top.items():
            if most * longest(words, n) > share * size:  # no longer n-gram is more frequent than a part of it
                characters, most = top_characters(words, n)
                if characters / size > share:
                    yield f"top_{n}gram"

    def _duplicated(self, words: Words) -> Iterator[str]:
        size, shares = len(words.text), [*self.duplicate.values()]
        if not shares or most_duplicated(words, min(self.duplicate)) <= min(shares) * size:
            return
        repeats = Repeats(words)
        for number, (n, share) in enumerate(self.duplicate.items()):
            if repeats.characters(n, share * size) > share * size:
                yield f"duplicate_{n}gram"
            if repeats.bound <= min(shares[number:]) * size:
                return


def _limits(by_size: dict[int, float | None]) -> dict[int, float]:
    return {n: share for n, share in by_size.items() if share is not None}


def _paragraphs(text: str) -> list[str]:
    return _PARAGRAPHS.split(text) if "\n\n\n" in text else text.split("\n\n")


def _lines(text: str) -> list[str]:
    """What lies between runs of line ends: empty only before the first and after the last."""
    lines = list(filter(None, text.split("\n")))
    return [""] * text.startswith("\n") + lines + [""] * text.endswith("\n")


def duplicates(parts: list[str]) -> tuple[float, int]:
    """(share of parts that stood there before, characters in them)."""
    distinct = set(parts)
    characters = sum(map(len, parts)) - sum(map(len, distinct))
    return (len(parts) - len(distinct)) / len(parts), characters


def top_characters(words: Words, n: int) -> tuple[int, int]:
    """(characters in all places of the most frequent n-gram, spaces included; how often it stands there).

    Of n-grams that are equally frequent, the first counts.
    """
    if len(words) < n:
        return 0, 0
    keys = words.keys(n)
    ordered = np.sort(keys)
    edges = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1], [True])))
    counts = np.diff(edges)
    most = int(counts.max())
    frequent = ordered[edges[:-1][counts == most]]
    first = (
        0
        if most == 1
        else int((keys == frequent[0] if len(frequent) == 1 else np.isin(keys, frequent)).argmax())
    )
    return (int(words.lengths[first : first + n].sum()) + n - 1) * most, most


def longest(words: Words, n: int) -> int:
    """Characters of the longest n words in a row, spaces between them included."""
    ends = words.ends
    return int((ends[n:] - ends[:-n]).max()) + n - 1 if len(words) >= n else 0


def most_duplicated(words: Words, n: int) -> int:
    """No n-gram rule for this n or a longer one can count more characters than this.

    Each longer n-gram that stood there before begins and ends with n-grams that did, so the characters it covers are among
    those that they cover; the bound costs one sort.
    """
    if len(words) <= n:
        return 0
    ordered = np.sort(words.keys(n))
    repeats = int((ordered[1:] == ordered[:-1]).sum())
    return repeats * longest(words, n)


class Repeats:
    """Characters in n-grams that stand there more than once, for n that grows: only where a shorter one repeats."""

    def __init__(self, words: Words) -> None:
        self.words = words
        self.bound = 0
        """No n-gram as long as the last asked for, or longer, can have more characters."""
        self.places = np.arange(len(words))
        """Where an n-gram starts that stands there more than once."""

    def characters(self, n: int, enough: float) -> int:
        """Characters in n-grams that stood there before, none counted twice; or a bound that is not above `enough`."""
        places = self.places[self.places <= len(self.words) - n]
        keys = self.words.keys(n)[places]
        order = np.argsort(keys, kind="stable")
        same = keys[order][1:] == keys[order][:-1]
        later = places[order[1:][same]]
        repeated = np.zeros(len(keys), bool)
        repeated[order[1:][same]] = repeated[order[:-1][same]] = True
        self.places, keys = places[repeated], keys[repeated]
        covered = np.zeros(len(self.words) + 1, np.int64)
        covered[later] += 1  # each place stands there once
        covered[later + n] -= 1
        self.bound = int(self.words.lengths[np.cumsum(covered)[:-1] > 0].sum())
        return self.bound if self.bound <= enough else self._exactly(n, keys.tolist())

    def _exactly(self, n: int, keys: list[int]) -> int:
        spans: list[int] = (self.words.ends[self.places + n] - self.words.ends[self.places]).tolist()
        seen: set[int] = set()
        characters = free = 0
        for place, key, span in zip(self.places.tolist(), keys, spans, strict=True):
            if place < free:
                continue
            if key in seen:
                characters += span
                free = place + n
            else:
                seen.add(key)
        return characters
