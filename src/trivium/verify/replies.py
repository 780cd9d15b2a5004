"""What a reply looks like, whatever it says: does it end, does it repeat itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Reply(NamedTuple):
    text: str
    finished: bool = True  # the model ended it; False where the length limit did


def words(text: str) -> list[str]:
    return text.lower().split()


def coherent(reply: Reply) -> bool:
    """Whether the reply is text at all: it ended by itself, has four words, and no run of four occurs twice."""
    return reply.finished and len(words(reply.text)) >= 4 and repetition(reply.text) == 0


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
