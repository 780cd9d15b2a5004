"""Ids to text as they come, for replies that are read while they are written."""

from __future__ import annotations

from collections.abc import Callable, Sequence


class Detokenizer:
    """Ids to text, piece by piece: the pieces joined are the decoded whole."""

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self.decode = decode
        self.ids: list[int] = []
        self.start = self.shown = (
            0  # ids before `shown` are shown; those from `start` give the next ones their context
        )

    def push(self, token: int) -> str:
        """The text that one more id makes whole; empty while a character is not."""
        self.ids.append(token)
        return self._new(final=False)

    def rest(self) -> str:
        """What is left of a character that never became whole."""
        return self._new(final=True)

    def _new(self, final: bool) -> str:
        before = self.decode(self.ids[self.start : self.shown])
        text = self.decode(self.ids[self.start :])
        if len(text) <= len(before) or (text.endswith("�") and not final):
            return ""
        self.start, self.shown = self.shown, len(self.ids)
        return text[len(before) :]
