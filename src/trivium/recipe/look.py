"""What the traps see: a recipe with its lines, and safe ways to follow its references.

Every way returns None or stops where a name leads nowhere, to the wrong kind or in a circle: those mistakes
have traps of their own, and no other trap should trip over them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from trivium.errors import RecipeError
from trivium.recipe.base import StageBase
from trivium.recipe.data import DataStage
from trivium.recipe.deployment import SmallerStage
from trivium.recipe.lines import Lines
from trivium.recipe.models import Recipe
from trivium.recipe.training import ImportStage, PretrainStage, TrainingStage

S = TypeVar("S", bound=StageBase)


@dataclass(frozen=True)
class Look:
    recipe: Recipe
    lines: Lines

    def error(self, what: str, stage: str, *place: str | int, fix: str) -> RecipeError:
        return RecipeError(what, where=self.lines.where(("stages", stage, *place)), fix=fix)

    def each(self, kind: type[S]) -> Iterator[tuple[str, S]]:
        """(name, stage) of every stage of a class."""
        for name, stage in self.recipe.stages.items():
            if isinstance(stage, kind):
                yield name, stage

    def get(self, name: str | None, kind: type[S]) -> S | None:
        stage = self.recipe.stages.get(name or "")
        return stage if isinstance(stage, kind) else None

    def ancestry(self, name: str | None) -> list[tuple[str, StageBase]]:
        """The models that a model comes from, itself first: aligned, sft, base."""
        found: dict[str, StageBase] = {}
        while name is not None and name not in found and name in self.recipe.stages:
            stage = self.recipe.stages[name]
            if not isinstance(stage, TrainingStage | SmallerStage):
                break
            found[name] = stage
            name = stage.model if isinstance(stage, SmallerStage) else getattr(stage, "init", None)
        return list(found.items())

    def base(self, name: str | None) -> tuple[str, PretrainStage] | None:
        """The nearest pretrain stage that a model comes from: it decides the shape and the tokenizer."""
        for ancestor, stage in self.ancestry(name):
            if isinstance(stage, PretrainStage):
                return ancestor, stage
        return None

    def imported(self, name: str | None) -> str | None:
        """The import stage that a model comes from; it decides the tokenizer."""
        ancestors = self.ancestry(name)
        root = getattr(ancestors[-1][1], "init", None) if ancestors else name
        return root if self.get(root, ImportStage) else None

    def trained_on(self, name: str | None) -> dict[str, DataStage]:
        """The data stages that a model has learnt from, through all its ancestors."""
        found: dict[str, DataStage] = {}
        for _, stage in self.ancestry(name):
            if isinstance(stage, TrainingStage) and (data := self.get(stage.data, DataStage)):
                found[stage.data] = data
        return found

    def context(self, stage: TrainingStage) -> int | None:
        """Tokens per row of a training stage; None if it cannot be told."""
        if stage.context is not None:
            return stage.context
        if isinstance(stage, PretrainStage):
            return stage.model.context
        base = self.base(getattr(stage, "init", None))
        return base[1].model.context if base else None
