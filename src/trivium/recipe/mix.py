"""How sources are mixed while training: shares, repetition, and how both change over the run."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

from pydantic import Field, model_validator

from trivium.recipe.base import Fraction, Strict


class Turn(Strict):
    """A part of the training run with weights of its own."""

    until: Fraction
    """Share of the training tokens at which it ends; it begins where the one before it ended."""
    weights: list[Annotated[float, Field(ge=0)]]
    """One for each source, in their order."""


class Mix(Strict):
    """Sources are kept whole and mixed by weight, row by row, while a model trains: small ones are shown more than once."""

    temperature: Annotated[float, Field(ge=1)] = 1.0
    """Flattens the weights: each share is raised to 1/temperature (Devlin et al. 2018). 1 takes them as they are."""
    max_epochs: Annotated[float, Field(gt=0)] | None = 4.0
    """How often a document is shown at most; the other sources take the place of one that is used up. Up to four times,
    repeated text is nearly worth new text (Muennighoff et al. 2023, arXiv:2305.16264). null: no limit."""
    curriculum: list[Turn] = []
    """Weights that change over the run, instead of those of the sources. The last turn ends at 1."""

    @model_validator(mode="after")
    def _whole(self) -> Mix:
        ends = [turn.until for turn in self.curriculum]
        if ends and (ends[-1] != 1 or any(a >= b for a, b in pairwise(ends))):
            raise ValueError("curriculum: `until` must rise from turn to turn, and the last must be 1")
        for turn in self.curriculum:
            if not any(turn.weights):
                raise ValueError("curriculum: a turn needs a weight above 0")
        return self
