"""A reply as it comes: ids become text as soon as their characters are whole, and a stop string is seen across tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from trivium.generate.batcher import Token
from trivium.text.detokenize import Detokenizer


class Delta(NamedTuple):
    """What a choice has more: text, the tokens that it was made of, and why it ended if it did."""

    choice: int
    text: str
    tokens: list[Token]
    finish: str | None = None


class Choice:
    """One reply: what the engine tells of it, with each token, becomes deltas for `send`.

    Text that may be the beginning of a stop string waits until it is clear whether it is. `endings`: ids that end a reply and are
    no text.
    """

    def __init__(
        self,
        index: int,
        decode: Callable[[Sequence[int]], str],
        send: Callable[[Delta], None],
        *,
        stop: Sequence[str] = (),
        endings: frozenset[int] = frozenset(),
    ) -> None:
        self.index, self.send, self.stop, self.endings = index, send, stop, endings
        self.matched: str | None = None  # the stop string that ended it
        self._text = Detokenizer(decode)
        self._held = ""
        self._sent = self._made = 0  # characters
        self._tokens: list[tuple[int, Token]] = []  # where each begins

    def watch(self, token: Token) -> str | None:
        """Takes a token in; "stop" where a stop string is whole."""
        if token.id in self.endings:
            return None
        self._tokens.append((self._made, token))
        return self._add(self._text.push(token.id))

    def _add(self, piece: str) -> str | None:
        self._made += len(piece)
        self._held += piece
        places = [(place, text) for text in self.stop if (place := self._held.find(text)) >= 0]
        if places:
            place, self.matched = min(places)
            self._emit(self._held[:place])
            self._held = ""
            return "stop"
        keep = max((overlap(self._held, text) for text in self.stop), default=0)
        self._emit(self._held[: len(self._held) - keep])
        self._held = self._held[len(self._held) - keep :]
        return None

    def _emit(self, text: str, finish: str | None = None) -> None:
        self._sent += len(text)
        ready = [token for place, token in self._tokens if place < self._sent]
        if text or finish:
            self._tokens = self._tokens[len(ready) :]
            self.send(Delta(self.index, text, ready, finish))

    def end(self, finish: str) -> None:
        """Sends what was held back, and why the reply has ended."""
        if self.matched is None:
            rest = self._text.rest()
            if self._add(rest) == "stop":
                finish = "stop"
            elif self._held:
                self._emit(self._held)
        self._emit("", finish)


def overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
