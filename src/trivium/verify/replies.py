"""What a reply looks like, whatever it says: does it end, does it repeat itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Reply(NamedTuple):
    text: str
    finished: bool = True  # the model ended it; False where the length limit did


def words(text: str) -> list[str]:
    return text.lower().split()


LOOPS = 1 / 3
"""Repetition from which on a text goes round. Of 2,250 replies of five models to XSTest's prompts, in all of which people found
something to label, the most repetitive one has 0.331; 42% repeat some run of four words."""


def coherent(text: str) -> bool:
    """Whether a reply is text at all, by its form: it has four words, and does not go round. That it was cut is no matter."""
    return len(words(text)) >= 4 and repetition(text) <= LOOPS


def repetition(text: str) -> float:
    """Share of the runs of four words that came before in the same text, 0 to 1."""
    runs = _runs(text, 4)
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def distinct(texts: Iterable[str], n: int = 2) -> float:
    """Share of the runs of n words of all texts that are different ones, 0 to 1 (distinct-n, Li et al. 2016); 0 without any."""
    runs = [run for text in texts for run in _runs(text, n)]
    return len(set(runs)) / len(runs) if runs else 0.0


def _runs(text: str, n: int) -> list[tuple[str, ...]]:
    found = words(text)
    return [tuple(found[i : i + n]) for i in range(len(found) - n + 1)]
