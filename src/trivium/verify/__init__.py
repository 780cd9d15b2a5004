"""Functions that say how good a reply is: (data record, reply) -> number.

`VERIFIERS` holds the kinds that need no model. `judge.LLMJudge` asks one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from trivium.demo.reasoning import correct
from trivium.recipe.kinds import plugins
from trivium.recipe.verifiers import FunctionVerifier, VerifierBase, without_settings
from trivium.verify import math
from trivium.verify.answers import same_answer
from trivium.verify.function import Function, identity
from trivium.verify.grounded import grounded

Verifier = Callable[[Mapping[str, Any], str], float]


def reasoning(record: Mapping[str, Any], reply: str) -> float:
    """1 if reasoning-gym's own scorer takes the answer as right, else 0; 0 for a record that is no task."""
    meta = record.get("meta", {})
    return float("entry" in meta and correct(reply, meta))


def exact(record: Mapping[str, Any], reply: str) -> float:
    """1 if the reply's final answer is the record's own after normalising, else 0; 0 for a record without one."""
    return float(same_answer(record, reply))


def _function(config: FunctionVerifier, folder: Path) -> Verifier:
    return Function(folder / config.path, config.name, seconds=config.seconds, memory=config.memory)


class VerifierKind(NamedTuple):
    """How a kind of verifier is opened, and what its scores depend on beyond the recipe.

    What `open` gives may be a context manager, which is then closed when all is scored, and may count in `failures` (a Counter)
    the replies that it could not score.
    """

    open: Callable[[Any, Path], Verifier]
    """(the verifier as the recipe has it, the recipe's folder) -> what scores."""
    identity: Callable[[Any, Path], dict[str, Any]] = lambda config, folder: {}


VERIFIERS: dict[str, VerifierKind] = {
    "reasoning": VerifierKind(
        lambda config, folder: reasoning, lambda config, folder: {"reasoning-gym": version("reasoning-gym")}
    ),
    "exact": VerifierKind(lambda config, folder: exact),
    "grounded": VerifierKind(lambda config, folder: grounded),
    "math": VerifierKind(
        lambda config, folder: math.MathVerifier(seconds=config.seconds),
        lambda config, folder: math.identity(),
    ),
    "function": VerifierKind(_function, lambda config, folder: {"function": identity(folder / config.path)}),
    **{kind: plugin.implementation() for kind, plugin in plugins("trivium.verifiers").items()},
}
"""Kind -> how it is opened, of those that need no model; packages of others add theirs."""


def named(kind: str) -> Verifier:
    """The verifier of a kind that needs no setting (`recipe.verifiers.without_settings`)."""
    return VERIFIERS[kind].open(_plain(kind), Path())


def named_identity(kind: str) -> dict[str, Any]:
    """What the scores of `named(kind)` depend on: the versions of the libraries behind it."""
    return VERIFIERS[kind].identity(_plain(kind), Path())


def _plain(kind: str) -> VerifierBase:
    return without_settings()[kind].model_validate({"kind": kind})
