"""What says how good a reply is: one class a kind of verifier. Packages of others add theirs through `trivium.verifiers`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from trivium.recipe.base import Name, Strict
from trivium.recipe.kinds import kind_of
from trivium.recipe.lines import listed, nearest
from trivium.recipe.teachers import Teacher
from trivium.recipe.units import Count


class VerifierBase(Strict):
    """Scores replies: higher is better, from 0 to 1 unless it says otherwise."""

    kind: str

    @classmethod
    def implementation(cls) -> Any:
        """How it is opened: a `trivium.verify.VerifierKind`. Given by the models of plug-ins."""
        raise NotImplementedError


class ReasoningVerifier(VerifierBase):
    """reasoning-gym's own checkers: 1 for a right answer to one of its tasks, else 0."""

    kind: Literal["reasoning"]


class ExactVerifier(VerifierBase):
    """1 where the reply's final answer (after `Answer:`, `the answer is`, `####` or in `\\boxed{}`) is the record's, else 0."""

    kind: Literal["exact"]


class GroundedVerifier(VerifierBase):
    """How much of the reply's content words are the record's answer and the other way round (F1), from 0 to 1."""

    kind: Literal["grounded"]


class MathVerifier(VerifierBase):
    """As `exact`, and by algebra, with math-verify: `1/2` is `0.5`, `(x+1)^2` is `x^2+2x+1`; words are not multiplied out."""

    kind: Literal["math"]
    seconds: Annotated[float, Field(gt=0)] = 5.0
    """Of CPU, for a comparison; one that takes more, or six times as long by the clock, scores 0."""


class FunctionVerifier(VerifierBase):
    """A function of yours, run in a process of its own: `def score(record, reply)` gives a number from 0 to 1. Its calls have no
    files and no network (on Linux 5.13 or newer): read what they need where the file is loaded."""

    kind: Literal["function"]
    path: str
    """The Python file, relative to the recipe; its bytes are part of the stage's identity."""
    name: str = "score"
    seconds: Annotated[float, Field(gt=0)] = 5.0
    """Of CPU, for a call; one that takes more, or six times as long by the clock, scores 0."""
    memory: Annotated[Count, Field(ge=1 << 26)] = 1 << 30
    """Bytes of memory that its process may have."""


class JudgeVerifier(VerifierBase):
    """A model that grades replies from 1 to 10 (as 0 to 1); pairs are asked about in both orders."""

    kind: Literal["judge"]
    teacher: Teacher
    criterion: str = "correct, to the point and helpful"


class RewardVerifier(VerifierBase):
    """A reward stage's model; its rewards have no fixed range, so set `accept` to fit, or rank only."""

    kind: Literal["reward_model"]
    references: ClassVar[tuple[str, ...]] = ("reward_model",)
    reward_model: Name


OWN: tuple[type[VerifierBase], ...] = (
    ReasoningVerifier,
    ExactVerifier,
    GroundedVerifier,
    MathVerifier,
    FunctionVerifier,
    JudgeVerifier,
    RewardVerifier,
)
"""A new kind is one more here, and one row in `verify` (or, if it asks a model, in `synthesize/scoring.py`)."""
VERIFIERS: dict[str, type[VerifierBase]] = {kind_of(model): model for model in OWN}
"""Kind -> its model; `recipe.models` adds those of other packages."""


def without_settings() -> dict[str, type[VerifierBase]]:
    """Those that need no setting, so that their kind says it all."""
    return {
        kind: model
        for kind, model in VERIFIERS.items()
        if all(name == "kind" or not field.is_required() for name, field in model.model_fields.items())
    }


def _named(kind: str) -> str:
    if kind not in (known := without_settings()):
        said = f"no verifier that needs no setting is called `{kind}`"
        raise ValueError(f"{said}; {nearest(kind, known)}there are: {listed(known)}")
    return kind


def _listed(schema: dict[str, Any]) -> None:
    schema["enum"] = list(without_settings())


VerifierName = Annotated[str, AfterValidator(_named), Field(json_schema_extra=_listed)]
"""The kind of a verifier that needs no setting."""
