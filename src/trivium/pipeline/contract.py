"""What the pipeline and a stage agree on: a stage gets a Context, fills a folder and returns its metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from trivium.corpus.withdrawn import Rule
from trivium.errors import Interrupted
from trivium.recipe.models import Recipe
from trivium.types import Emit


@dataclass(frozen=True)
class Artifact:
    """A finished stage's folder, with the content of its artifact.json."""

    path: Path
    record: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        return str(self.record["fingerprint"])

    @property
    def kind(self) -> str:
        return str(self.record["kind"])

    @property
    def stage(self) -> str:
        """The name the stage had when the artifact was made; a recipe that re-uses it may use another."""
        return str(self.record["stage"])

    @property
    def metrics(self) -> dict[str, Any]:
        metrics: dict[str, Any] = self.record["metrics"]
        return metrics

    @property
    def inputs(self) -> dict[str, str]:
        """Stage name -> fingerprint of what the stage was made from."""
        inputs: dict[str, str] = self.record["inputs"]
        return inputs


@dataclass
class Context:
    """All that a stage may know. It writes to `out` and `work` and nowhere else."""

    name: str
    config: Any
    """The stage as the recipe has it: the class of `trivium.recipe.models` that belongs to its kind."""
    recipe: Recipe
    inputs: dict[str, Artifact]
    """The artifacts of the stages that `config` names, by the name it uses."""
    out: Path
    """An empty folder to fill: it becomes the artifact."""
    work: Path
    """Scratch that survives a kill and is handed to the next try (checkpoints); gone once the artifact
    is stored."""
    seed: int
    """Derived from the recipe's seed and the stage's kind: neither names nor other stages move it."""
    emit: Emit
    recipe_folder: Path
    """Relative paths in the recipe start here."""
    identity: dict[str, Any] = field(default_factory=dict)
    """What the artifact's fingerprint is made of."""
    withdrawn: tuple[Rule, ...] = ()
    """What a data stage drops: the part of the recipe's withdrawals that its identity holds."""
    stopping: Interrupted | None = None
    """Set by a stage that was asked to stop when it was done: raised once its artifact is stored."""


class StageKind(Protocol):
    """How one kind of stage is carried out."""

    @property
    def version(self) -> int:
        """Raised whenever the same recipe would give another artifact: older artifacts are then stale."""

    def identity(self, config: Any, recipe_folder: Path) -> dict[str, Any]:
        """What the artifact depends on beyond the recipe (Python's version, the SHA-256 of a source file)."""

    def run(self, ctx: Context) -> dict[str, Any]:
        """Fills `ctx.out` and returns the metrics to keep (plain JSON values)."""


Registry = Mapping[str, StageKind]
"""Kind -> how to carry it out. An argument everywhere, so that tests can use small stages of their own."""
