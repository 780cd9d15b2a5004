"""The final answer of a text, and when two answers are the same."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation, localcontext
from typing import Any

from trivium.answers import marked_answer

_NUMBER = r"[-+]?(?:\d{1,3}(?:(?:,|\{,\}|\\,|[ \u00a0\u2009\u202f])\d{3})+(?!\d)|\d+)?(?:\.\d+)?(?<=\d)\.?"
_SEPARATOR = re.compile(r"\{,\}|\\,|[, \u00a0\u2009\u202f]")
_QUANTITY = re.compile(
    rf"(?P<sign>[-+]?)(?P<money>[$€£¥]?)(?P<number>{_NUMBER})\s*(?P<unit>%|°?[^\W\d_]+(?:[/ ][^\W\d_]+)?[²³]?)?"
)
_LATEX = re.compile(r"\\[()\[\]]|\\(?:text|mathrm|textbf|mathbf)\s*(?=\{)|\\[!;: ]")
_NOT_UNITS = frozenset(
    (
        *("x", "y", "z", "n", "k", "i", "e", "pi", "or", "and", "not", "times", "plus", "minus"),
        *("dozen", "hundred", "thousand", "million", "billion", "trillion"),
    )
)
"""Words behind a number that make another number of it, or say that it is not the answer."""


def final_answer(text: str) -> str:
    """What stands behind the last mark of an answer (`trivium.answers`), else the whole text."""
    answer = marked_answer(text)
    return text.strip() if answer is None else answer


def normalised(answer: str) -> str:
    """The form in which answers are compared: lower case, white space collapsed, no marks at the ends, 1,000.0 as 1000."""
    plain = _plain(answer)
    match = _QUANTITY.fullmatch(plain)
    if match is None or match["unit"]:
        return plain
    return _number(match) or plain


def _plain(answer: str) -> str:
    bare = _LATEX.sub("", answer).replace(r"\$", "$").replace(r"\%", "%")
    bare = " ".join(bare.lower().split()).strip("`*\"' ").rstrip(".!?, ").strip("`*\"' ")
    if len(bare) > 1 and bare.startswith("$") and bare.endswith("$"):  # LaTeX's, and no currency
        bare = bare.strip("$ ")
    return bare


def _number(quantity: re.Match[str]) -> str | None:
    digits = quantity["sign"] + _SEPARATOR.sub("", quantity["number"])
    with localcontext(prec=max(28, len(digits))):  # long numbers are not rounded to each other
        try:
            return format(Decimal(digits).normalize() + 0, "f")
        except InvalidOperation:
            return None


def quantity(answer: str) -> tuple[str, str] | None:
    """(number, unit) of an answer that is a number with or without a unit or currency."""
    match = _QUANTITY.fullmatch(re.sub(r"[{}]", "", _plain(answer).replace("{,}", ",")))
    if match is None or (number := _number(match)) is None:
        return None
    unit = match["unit"] or ""
    if _NOT_UNITS & set(unit.replace("/", " ").split()):
        return None
    return number, match["money"] + unit


def equal(first: str, second: str) -> bool:
    """Whether two answers are the same: as texts, or as numbers where at most one of them names a unit, or both the same one."""
    if normalised(first) == normalised(second):
        return True
    one, other = quantity(first), quantity(second)
    if one is None or other is None or one[0] != other[0]:
        return False
    return one[1] == other[1] or not (one[1] and other[1])


def reference(record: Mapping[str, Any]) -> str | None:
    """The right answer of a record: `meta.answer`, or the final answer of the assistant turn that it ends with."""
    given = record.get("meta", {}).get("answer")
    if given is not None:
        return str(given)
    turns = record.get("messages", ())
    answered = len(turns) > 0 and turns[-1]["role"] == "assistant"
    return final_answer(turns[-1]["content"]) if answered else None


def same_answer(record: Mapping[str, Any], reply: str) -> bool:
    """Whether a reply's final answer equals the record's. An empty answer equals nothing."""
    wanted, answer = reference(record), final_answer(reply)
    return wanted is not None and normalised(answer) != "" and equal(wanted, answer)
