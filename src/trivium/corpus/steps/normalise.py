"""One spelling for what looks the same: mojibake repaired, Unicode normalised, invisible characters removed.

Invisible characters are noise to a tokenizer and a way to hide instructions from people (Unicode TR 36; tag characters spell
ASCII that no one sees). Some are part of how a script is written, and stay where they are: joiners in Arabic, Persian and
Indic words and in emoji, directional marks in right-to-left text, spaces of zero width in scripts without spaces.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

import numpy as np

from trivium.corpus.steps.base import CODE, Document, on_lines
from trivium.corpus.words import codepoints
from trivium.errors import TriviumError
from trivium.recipe.steps import Normalise

ROUNDS = 4
"""Repairing can uncover what the next round repairs (mojibake of mojibake); more than two rounds hardly occur."""

_LINE_END = re.compile("\r\n?|[\x0b\x0c\x1c-\x1e\u2028\u2029]")

# The lead byte of a UTF-8 sequence and a byte that continues it, both read as Windows-1252 or Latin-1; or a bare C1 control.
_CONTINUES = (
    "\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013\u2014\u2018-\u201a"
)
_CONTINUES += "\u201c-\u201e\u2020-\u2022\u2026\u2030\u2039\u203a\u20ac\u2122"
_SUSPECT = re.compile(f"[\u00c2-\u00f4][{_CONTINUES}]|[\u0080-\u009f]|\u00c3 ")

_RTL = "\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff"
_HAS_RTL = re.compile(f"[{_RTL}]")
_JOINING = (
    f"\u0900-\u0dff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u1800-\u18af\u1a20-\u1aaf{_RTL}\ua840-\ua87f"
)
_NO_SPACES = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1980-\u19df\u1a20-\u1aaf\u0f00-\u0fff"
_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_PICTURE = "\u00a9\u00ae\u203c-\u3299\U0001f000-\U0001faff"
_ONE_PICTURE = f"[{_PICTURE}](?:\ufe0f|[\U0001f3fb-\U0001f3ff])?"

_MARKS = "\u061c\u200e\u200f"  # directional marks
_ODD = (
    "\x00-\x08\x0e-\x1f\x7f"
    "\u0080-\u009f\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200d\u202a-\u202e"
    "\u2060-\u206f\u3164\ud800-\udfff\ufdd0-\ufdef\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffc\ufffe\uffff"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
# What stays is matched first, as a whole, so that it is the sequence that decides and not one neighbour.
_KEEP = "|".join(
    (
        f"[{_JOINING}][\u200c\u200d]",
        f"{_ONE_PICTURE}(?:\u200d{_ONE_PICTURE})+",
        "\U0001f3f4[\U000e0030-\U000e0039\U000e0061-\U000e007a]{4,6}\U000e007f",  # flags of England and the like
        "[0-9#*]\ufe0f\u20e3",
        f"[{_PICTURE}][\ufe0e\ufe0f]",
        f"[{_HAN}][\ufe00-\ufe02\U000e0100-\U000e01ef]",
        "[\u2200-\u22ff\u1000-\u109f\ua840-\ua877]\ufe00",  # mathematical, Myanmar and Phags-pa variants
        "[\u1820-\u18aa][\u180b-\u180f]",
        f"[{_NO_SPACES}]\u200b",
        "[\u1100-\u115e\ua960-\ua97c]\u1160|\u115f[\u1161-\u11a7]",  # Hangul syllables without one of their parts
    )
)
_REMOVE = re.compile(f"({_KEEP})|[{_ODD}]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_REMOVE_MARKS = re.compile(f"[{_MARKS}]")


_ODD_FLAG, _LEAD, _CONTINUATION, _LINE_FLAG = 1, 2, 4, 8


@cache
def _classes() -> np.ndarray:
    """(0x110000,) uint8: what of the above a character can be part of."""
    table = np.zeros(0x110000, np.uint8)
    low, tags = range(0x20000), range(0xE0000, 0xE1000)  # no pattern below has a character outside these
    everything = "".join(map(chr, [*low, *tags]))
    for flag, pattern in (
        (_ODD_FLAG, f"[{_ODD}{_MARKS}]"),
        (_LEAD, "[\u0080-\u009f\u00c2-\u00f4]"),
        (_CONTINUATION, f"[{_CONTINUES}]"),
        (_LINE_FLAG, "[\u2028\u2029]"),
    ):
        for found in re.finditer(f"{pattern}+", everything):
            table[found.start() : found.end()] |= flag
    table[tags.start : tags.stop] = table[low.stop : low.stop + len(tags)]
    table[low.stop : low.stop + len(tags)] = 0
    return table


_DROP_CONTROLS = dict.fromkeys([*range(9), *range(14, 32), 127])
_ASCII_LINE_ENDS = ("\r", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e")


class NormaliseStep:
    name = "normalise"
    changes = True

    def __init__(self, config: Normalise) -> None:
        self.config = config
        most = config.max_blank_lines
        self.blank = None if most is None else re.compile(rf"\n(?:[ \t]*\n){{{most + 1},}}")
        self.blank_to = "\n" * ((most or 0) + 1)

    def __call__(self, document: Document) -> str | None:
        text: str = document["text"]
        if document.get("kind") not in CODE:
            document["text"] = text = self.text(text)
        return None if text and not text.isspace() else "normalise:empty"

    def text(self, text: str) -> str:
        """The normalised text; the same again for what it gives."""
        if any(end in text for end in _ASCII_LINE_ENDS):
            text = _LINE_END.sub("\n", text)
        if not text.isascii():
            for _ in range(ROUNDS):
                before = text
                text = self._unicode(text)
                if text == before:
                    break
        elif self.config.invisible:
            text = text.translate(_DROP_CONTROLS)
        if self.blank is not None:
            text = self.blank.sub(self.blank_to, text)
        return text

    def _unicode(self, text: str) -> str:
        points = codepoints(text)
        classes = _classes().take(points)
        flags = int(np.bitwise_or.reduce(classes))
        if flags & _LINE_FLAG:
            text = _LINE_END.sub("\n", text)
        if self.config.mojibake and flags & _LEAD:
            repaired = repair(text, _suspicious(points, classes)) if not flags & _LINE_FLAG else repair(text)
            flags |= _ODD_FLAG if repaired is not text else 0
            text = repaired
        if self.config.invisible and flags & _ODD_FLAG:
            text = _visible(text)
            if not _HAS_RTL.search(text):
                text = _REMOVE_MARKS.sub("", text)
        elif not self.config.invisible:
            text = _SURROGATE.sub("", text)  # no file can hold them
        form = self.config.form
        if form is not None and not unicodedata.is_normalized(form, text):
            text = unicodedata.normalize(form, text)
        return text


def _suspicious(points: np.ndarray, classes: np.ndarray) -> list[int]:
    """Where `_SUSPECT` matches: a lead byte read as a character before a continuation, or a bare control."""
    found = classes == (_LEAD | _CONTINUATION | _ODD_FLAG)
    follows = ((classes[1:] & _CONTINUATION) != 0) | ((points[:-1] == 0xC3) & (points[1:] == ord(" ")))
    found[:-1] |= ((classes[:-1] & _LEAD) != 0) & follows
    places: list[int] = np.flatnonzero(found).tolist()
    return places


def _visible(text: str) -> str:
    """Without what nobody sees. Only lines that have some are looked at closely: that is slow."""
    places = np.flatnonzero(_classes().take(codepoints(text)) & _ODD_FLAG).tolist()
    return on_lines(text, places, lambda line: _REMOVE.sub(lambda found: found[1] or "", line))


def repair(text: str, places: list[int] | None = None) -> str:
    """Mojibake repaired by ftfy, line by line (one page often mixes charsets) and only where there is a sign of it.

    `places`: where the signs are, ascending, for who knows them.
    """
    if places is None:
        places = [found.start() for found in _SUSPECT.finditer(text)]
    if not places:
        return text
    try:
        import ftfy
    except ImportError:
        raise TriviumError("repairing mojibake needs ftfy", fix="pip install 'trivium[data]'") from None
    return on_lines(text, places, lambda line: _LINE_END.sub(" ", ftfy.fix_encoding(line)))
