"""Whether two answers are the same by algebra, as math-verify finds it. A `verify.worker` loads this file, in a process that a
formula which never ends, or fills the memory, cannot leave. It imports nothing of Trivium."""

from __future__ import annotations

from collections.abc import Mapping

from math_verify import parse, verify


def score(record: Mapping[str, str], reply: str) -> bool:
    """Whether `reply` equals `record["answer"]`: both an answer alone, in LaTeX or plain."""
    # their own time limits are signals, which would be in the way of the process's
    wanted, answer = (parse(f"${text}$", parsing_timeout=None) for text in (record["answer"], reply))
    return bool(wanted and answer and verify(wanted, answer, timeout_seconds=None))


score({"answer": r"\frac{1}{2}"}, "0.5")  # what is loaded late is loaded once, before calls fork this process
