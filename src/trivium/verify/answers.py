"""The final answer of a text, and when two answers are the same."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation, localcontext
from typing import Any

_MARKED = re.compile(r"(?:^|\s)(?:Answer:|####)[ \t]*([^\n]*)", re.IGNORECASE)
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_NUMBER = re.compile(r"[-+]?\$?[\d,]*\.?\d+")


def final_answer(text: str) -> str:
    """What stands behind the last `Answer:` or `####` (GSM8K) or in the last `\\boxed{}` (MATH); else the whole text."""
    for pattern in (_MARKED, _BOXED):
        if found := pattern.findall(text):
            return str(found[-1]).strip()
    return text.strip()


def normalised(answer: str) -> str:
    """The form in which answers are compared: lower case, white space collapsed, no marks at the ends, 1,000.0 as 1000."""
    plain = " ".join(answer.lower().split()).strip("`*\"' ").rstrip(".!?, ")
    if _NUMBER.fullmatch(plain):
        with localcontext(prec=max(28, len(plain))):  # long numbers are not rounded to each other
            try:
                number = Decimal(plain.replace(",", "").replace("$", ""))
            except InvalidOperation:
                return plain
            return format(number.normalize() + 0, "f")
    return plain


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
    wanted, found = reference(record), normalised(final_answer(reply))
    return wanted is not None and found != "" and normalised(wanted) == found
