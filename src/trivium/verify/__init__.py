"""Functions that say how good a reply is: (data record, reply) -> number.

`VERIFIERS` holds those that need nothing else. `function.Function` runs a function of the user's, `judge.LLMJudge` asks a model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from trivium.demo.reasoning import correct
from trivium.verify.answers import same_answer

Verifier = Callable[[Mapping[str, Any], str], float]


def reasoning(record: Mapping[str, Any], reply: str) -> float:
    """1 if reasoning-gym's own scorer takes the answer as right, else 0; 0 for a record that is no task."""
    meta = record.get("meta", {})
    return float("entry" in meta and correct(reply, meta))


def exact(record: Mapping[str, Any], reply: str) -> float:
    """1 if the reply's final answer is the record's own after normalising, else 0; 0 for a record without one."""
    return float(same_answer(record, reply))


VERIFIERS: dict[str, Verifier] = {"reasoning": reasoning, "exact": exact}
