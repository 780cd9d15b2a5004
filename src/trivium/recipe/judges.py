"""Judges that a suite may take in the place of its rules: who says whether a reply declines, or holds what was asked for."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from trivium.recipe.base import Strict
from trivium.recipe.teachers import OpenaiTeacher
from trivium.recipe.units import Count

Axis = Literal["refused", "content", "coherent"]


class ClassifierJudge(Strict):
    """A head trained on labelled replies: what `trivium evaluate judge train` writes."""

    kind: Literal["classifier"]
    axis: Axis
    """Whose verdicts it gives."""
    path: Annotated[str, Field(min_length=1)] | None = None
    """Its file, from the recipe's folder. None: the one that comes with Trivium, for `refused`; it counts a reply to another
    question as a refusal, as the labels do that it was trained on."""


class ModelJudge(Strict):
    """A language model behind a server. It sees the request and the reply, and says yes or no."""

    kind: Literal["model"]
    axis: Axis
    """Whose verdicts it gives."""
    server: OpenaiTeacher
    labels: Annotated[str, Field(min_length=1)] | None = None
    """A file of labelled replies, from the recipe's folder, as `trivium evaluate judge train` takes them: the judge is
    asked about them first, and its rates are corrected by how it does. None: its rates are not corrected."""
    max_labels: Annotated[Count, Field(gt=0)] = 200
    """Labelled replies that it is asked about, at most."""


Judge = Annotated[ClassifierJudge | ModelJudge, Field(discriminator="kind")]


def _one_each(judges: list[Judge]) -> list[Judge]:
    axes = [judge.axis for judge in judges]
    if twice := sorted({axis for axis in axes if axes.count(axis) > 1}):
        raise ValueError(f"two judges of {', '.join(twice)}: an axis has one")
    return judges


Judges = Annotated[list[Judge], AfterValidator(_one_each)]
