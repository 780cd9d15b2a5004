"""Where a text says its final answer: the one reader of all that checks or extracts answers."""

from __future__ import annotations

import re

_MARK = re.compile(
    r"\banswer[ \t]*\*{0,2}[ \t]*(?P<mark>:|=|\bis\b[ \t]*:?)|####|(?P<boxed>\\boxed[ \t]*\{)", re.IGNORECASE
)
_LINE = re.compile(r"[ \t]*(?:\*\*|__)?[ \t]*([^\n]*)")
_SENTENCE = re.compile(r"[.!?;](?=\s|$)|,?\s(?:because|since)\b", re.IGNORECASE)
"""Where the answer of "the answer is 12 because ..." ends."""


def marked_answer(text: str) -> str | None:
    r"""What stands behind the last mark: `Answer:` (bold or not), "the answer is", `####` (GSM8K), or in `\boxed{}` (MATH);
    None where there is no mark."""
    last = None
    for mark in _MARK.finditer(text):
        last = mark
    if last is None:
        return None
    if last["boxed"]:
        return _braced(text, last.end())
    line = _LINE.match(text, last.end())
    assert line is not None
    answer = line[1]
    if (last["mark"] or "").lower().startswith("is"):
        answer = _SENTENCE.split(answer, maxsplit=1)[0]
    return answer.strip()


def _braced(text: str, start: int) -> str:
    """What stands up to the brace that closes the one before `start`, or up to the end of the line."""
    depth = 1
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0 or text[place] == "\n":
            return text[start:place].strip()
    return text[start:].strip()
