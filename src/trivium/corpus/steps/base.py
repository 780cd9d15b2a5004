"""What a step is, and what the steps share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

Document = dict[str, Any]
"""One document on its way: key, url, text, source, kind, license, origin, language, ... (a row of the artifact)."""


CODE = frozenset({"code"})
"""Kinds of sources whose text is read by machines: it stays as it is, and is in no language of people."""


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
    """One thing done to every document. May change the text and add columns; gives the reason of a rejection.

    With `redacts = True` one that changes text is given the arguments of a conversation's calls, too, which machines read.
    """

    @property
    def name(self) -> str: ...

    @property
    def changes(self) -> bool:
        """Whether it changes text: then a conversation is given to it turn by turn, else as a whole."""
        ...

    def __call__(self, document: Document) -> str | None: ...
