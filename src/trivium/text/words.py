"""Documents to ids at several times the tokenizer's own speed: each different word is encoded once, then looked up.

Byte-level BPE never merges across the words that its pre-tokenizer cuts text into, so a table from words to ids gives the
same ids as the tokenizer does, provided that the cut is the same. `re` cuts as the tokenizer's pattern does wherever
both agree on what a character is; a text with any other character goes to the tokenizer itself.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from trivium.text.chat import ChatTokenizer

LENGTH, WORDS = 32, 500_000
"""Longer words are not kept, nor more of them: about 100 MB."""
_SPACE = frozenset(
    "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
)


class DocumentEncoder:
    """`encoder(texts)`: the bytes of each document's ids in `dtype`, the marks of its beginning and end with them."""

    def __init__(self, chat: ChatTokenizer) -> None:
        self.dtype = np.dtype(np.uint16 if chat.vocab_size <= 2**16 else np.uint32)
        self._chat = chat
        self._head, self._tail = self._bytes(chat.begin), self._bytes([chat.end_of_text])
        self._words = _Words(chat.guard.tokenizer, self.dtype) if _is_known(chat.guard.tokenizer) else None

    def __call__(self, texts: Sequence[str]) -> list[bytes]:
        found = [self._looked_up(text) for text in texts]
        rest = [text for text, ids in zip(texts, found, strict=True) if ids is None]
        asked = map(self._bytes, self._chat.documents(rest) if rest else [])
        return [next(asked) if ids is None else ids for ids in found]

    def _looked_up(self, text: str) -> bytes | None:
        """None where the tokenizer itself has to be asked."""
        words, cut = self._words, pattern().findall
        if words is None:
            return None
        try:
            ids = b"".join(map(words.__getitem__, cut(text)))
        except _Unsure:
            return None
        return self._head + ids + self._tail

    def _bytes(self, ids: Sequence[int]) -> bytes:
        return np.array(ids, self.dtype).tobytes()


class _Unsure(Exception):
    """The text has a character that not everybody takes for the same."""


class _Words(dict[str, bytes]):
    """word -> its ids."""

    def __init__(self, tokenizer: Tokenizer, dtype: np.dtype) -> None:
        self.tokenizer, self.dtype = tokenizer, dtype

    def __missing__(self, word: str) -> bytes:
        if not word.isascii() and any(map(_is_unsure, word)):
            raise _Unsure
        ids = np.array(self.tokenizer.encode(word, add_special_tokens=False).ids, self.dtype).tobytes()
        if len(word) <= LENGTH and len(self) < WORDS:
            self[word] = ids
        return ids


def _is_known(tokenizer: Tokenizer) -> bool:
    """Whether the tokenizer cuts as `pattern` does: digits alone, then GPT-2's pattern (ours, and SmolLM's)."""
    said = json.loads(tokenizer.to_str())
    model, cut = said["model"], said["pre_tokenizer"] or {}
    steps = [
        {
            name: step.get(name)
            for name in ("type", "individual_digits", "add_prefix_space", "use_regex")
            if name in step
        }
        for step in cut.get("pretokenizers", [])
    ]
    return (
        cut.get("type") == "Sequence"
        and steps
        == [
            {"type": "Digits", "individual_digits": True},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        ]
        and (model["type"], model["dropout"]) == ("BPE", None)
        and said["normalizer"] is None
        and all(token["special"] for token in said["added_tokens"])  # the others cut words
    )


def _kind(database: Any, character: str) -> str:
    """L letter, N number, S white space, O anything else: what the pattern asks for."""
    kind: str = database.category(character)[0]
    return kind if kind in "LN" else "S" if character in _SPACE else "O"


def _is_unsure(character: str) -> bool:
    """Whether the character's kind may depend on the version of Unicode, which Python and the tokenizers library need not
    share: it is not assigned, or its kind is not that of version 3.2, whose tables Python has too. Beyond the basic plane,
    which the pattern does not look at, anything but a symbol."""
    kind, code = _kind(unicodedata, character), ord(character)
    return (
        unicodedata.category(character) in ("Cn", "Cs")
        or kind != _kind(unicodedata.ucd_3_2_0, character)
        or code >= 0x20000
        or (code >= 0x10000 and kind != "O")
    )


@cache
def pattern() -> re.Pattern[str]:
    """GPT-2's pattern with every digit alone. White space before a digit is one word, as at the end of a text: digits are
    taken out first."""
    kinds = "".join(_kind(unicodedata, chr(code)) for code in range(0x10000))
    letter, number, space = (_ranges(kinds, kind) for kind in "LNS")
    return re.compile(
        f"[{number}]|'(?:[stmd]|re|ve|ll)| ?[{letter}]+| ?[^{letter}{number}{space}]+"
        f"|[{space}]+(?=[{number}])|[{space}]+(?![^{space}])|[{space}]+"
    )


def _ranges(kinds: str, kind: str) -> str:
    """A character class of the places where `kinds` is `kind`."""
    return "".join(f"\\u{run.start():04x}-\\u{run.end() - 1:04x}" for run in re.finditer(f"{kind}+", kinds))
