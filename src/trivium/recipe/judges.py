"""Judges that a suite may take in the place of its rules: who says whether a reply declines, or holds what was asked for."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, PlainValidator, SerializeAsAny, Tag

from trivium.recipe.base import Strict
from trivium.recipe.kinds import added
from trivium.recipe.teachers import CheckpointTeacher, OpenaiTeacher, Teacher
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
    """A language model, behind a server or a checkpoint of the recipe. It sees the request and the reply, and says yes or no."""

    kind: Literal["model"]
    axis: Axis
    """Whose verdicts it gives."""
    server: Teacher
    labels: Annotated[str, Field(min_length=1)] | None = None
    """A file of labelled replies, from the recipe's folder, as `trivium evaluate judge train` takes them: the judge is
    asked about them first, and its rates are corrected by how it does. None: its rates are not corrected."""
    max_labels: Annotated[Count, Field(gt=0)] = 200
    """Labelled replies that it is asked about, at most."""


class PairJudge(Strict):
    """A language model that says which of two replies is better, asked in both orders."""

    server: Teacher
    criterion: Annotated[str, Field(min_length=1)] = "correct, to the point and helpful"
    """What it prefers by, in words."""
    labels: Annotated[str, Field(min_length=1)] | None = None
    """Pairs between which people have chosen, from the recipe's folder, as `trivium arena export --kind preferences` writes them:
    the judge is asked about them first, and with how many it agrees stands beside its name."""
    max_labels: Annotated[Count, Field(gt=0)] = 200
    """Pairs that it is asked about, at most."""


class GradeJudge(Strict):
    """A language model behind a server that grades a reply from 1 to 10; for the metric `score` of a rollout."""

    kind: Literal["grade"]
    server: OpenaiTeacher
    criterion: Annotated[str, Field(min_length=1)] = "correct, to the point and helpful"
    """What it grades by, in words."""


class JudgeBase(Strict):
    """A judge of a package, found through the entry points `trivium.judges`."""

    kind: str
    axis: Axis
    """Whose verdicts it gives."""

    @classmethod
    def implementation(cls) -> Any:
        """How it is opened: called with (this block, the recipe's folder), gives a `trivium.evaluate.judges.OpenJudge`."""
        raise NotImplementedError


OWN = ("classifier", "model")


def _added(value: Any) -> JudgeBase:
    """The block of a plug-in, checked by the plug-in's own model."""
    if isinstance(value, JudgeBase):
        return value
    models = added("trivium.judges", JudgeBase, OWN)
    kind = value.get("kind") if isinstance(value, dict) else None
    if kind not in models:
        raise ValueError(f"no judge is called {kind!r}; there are: {', '.join([*OWN, *models])}")
    return models[kind].model_validate(value)


def _which(value: Any) -> str:
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return kind if kind in OWN else "plug-in"


def _which_live(value: Any) -> str:
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return "grade" if kind == "grade" else _which(value)


Judge = Annotated[
    Annotated[ClassifierJudge, Tag("classifier")]
    | Annotated[ModelJudge, Tag("model")]
    | Annotated[SerializeAsAny[JudgeBase], PlainValidator(_added), Tag("plug-in")],
    Discriminator(_which),
]


def _reachable(judge: Any) -> Any:
    local = isinstance(getattr(judge, "server", None), CheckpointTeacher)
    if local:
        raise ValueError(
            "live replies are judged behind a server: `server: {kind: openai, url: ..., model: ...}`"
        )
    return judge


LiveJudge = Annotated[
    Annotated[GradeJudge, Tag("grade")]
    | Annotated[ClassifierJudge, Tag("classifier")]
    | Annotated[ModelJudge, Tag("model")]
    | Annotated[SerializeAsAny[JudgeBase], PlainValidator(_added), Tag("plug-in")],
    Discriminator(_which_live),
    AfterValidator(_reachable),
]
"""Of single replies of a rollout: any judge, or a grade."""


def _one_each(judges: list[Judge]) -> list[Judge]:
    axes = [judge.axis for judge in judges]
    if twice := sorted({axis for axis in axes if axes.count(axis) > 1}):
        raise ValueError(f"two judges of {', '.join(twice)}: an axis has one")
    return judges


Judges = Annotated[list[Judge], AfterValidator(_one_each)]
