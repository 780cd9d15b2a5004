"""Answers that are the same by algebra: `exact`, and where that says no and no words are in the way, math-verify."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from trivium.corpus.extras import needed
from trivium.verify import answers
from trivium.verify.function import Function

_COMMAND = re.compile(r"\\[A-Za-z]+|[{}$]")
_WORD = re.compile(r"[^\W\d_]{3,}|\A\s*[^\W\d_]{2,}\s*\Z")
_FUNCTIONS = frozenset(("sin", "cos", "tan", "cot", "log", "exp", "sqrt"))


class MathVerifier(Function):
    """1 where the final answers are the same, as texts, numbers or formulas. A formula that takes over `seconds` is wrong.

    Two numbers with or without units, and answers that hold words, are compared as `exact` does: to algebra "no" is n times o,
    and a unit is nothing. TriviumError if math-verify is not installed.
    """

    def __init__(self, *, seconds: float = 5.0) -> None:
        identity()
        super().__init__(Path(__file__).with_name("algebra.py"), seconds=seconds, memory=2 << 30)

    def __call__(self, record: Mapping[str, Any], reply: str) -> float:
        wanted, answer = answers.reference(record), answers.final_answer(reply)
        if wanted is None or not answers.normalised(answer):
            return 0.0
        if answers.equal(wanted, answer):
            return 1.0
        if not algebraic(wanted, answer):
            return 0.0
        self.succeeded = 1  # ten formulas in a row that never end are the replies' fault
        return super().__call__({"answer": wanted}, answer)


def algebraic(first: str, second: str) -> bool:
    """Whether algebra may say more of two answers than comparing them does."""
    if answers.quantity(first) and answers.quantity(second):
        return False
    return not _words(first) | _words(second)


def _words(answer: str) -> set[str]:
    return set(_WORD.findall(_COMMAND.sub(" ", answer.lower()))) - _FUNCTIONS


def identity() -> dict[str, str]:
    """The versions that scores depend on."""
    with needed("math", "math-verify"):
        return {name: version(name) for name in ("math-verify", "sympy")}
