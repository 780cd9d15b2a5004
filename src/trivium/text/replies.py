"""What a reply looks like, whatever it says: does it decline, does it repeat itself."""

from __future__ import annotations

import re

DECLINES = re.compile(
    r"\b(can['’]t|cannot|can not|won['’]t|will not|not able to|unable to|not going to)\b.{0,40}"
    r"\b(help|assist|do|give|provide|support|write|explain|show)\b"
    r"|\b(I['’]m|I am) sorry\b",
    re.IGNORECASE | re.DOTALL,
)


def refuses(text: str) -> bool:
    """Whether the reply declines to help."""
    return DECLINES.search(text) is not None


def repetition(text: str) -> float:
    """Share of the runs of four words that came before in the same text, 0 to 1."""
    words = text.lower().split()
    runs = [tuple(words[i : i + 4]) for i in range(len(words) - 3)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0
