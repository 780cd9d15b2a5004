"""Trivium as a library: the same functions that the commands call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from trivium.model.hf import load as load_model
from trivium.pipeline.contract import Artifact
from trivium.recipe.load import load as load_recipe
from trivium.recipe.models import Recipe
from trivium.text.chat import ChatTokenizer
from trivium.types import Event

__all__ = ["load_model", "load_recipe", "load_tokenizer", "run"]


def load_tokenizer(folder: str | Path) -> ChatTokenizer:
    """The tokenizer and chat template of a checkpoint or tokenizer folder."""
    return ChatTokenizer.load(Path(folder))


def run(
    recipe: Recipe | str | Path,
    *,
    overrides: Sequence[str] = (),
    store: str | Path = ".trivium",
    runs: str | Path = "runs",
    only: Sequence[str] | None = None,
    emit: Callable[[Event], None] = lambda event: None,
    recipe_folder: str | Path = ".",
) -> dict[str, Artifact]:
    """Runs a recipe (a file, or a Recipe in memory); what is in the store already is re-used. Returns artifacts by stage.

    `overrides` as on the command line (`base.tokens=1M`) apply to a file; `recipe_folder` is where relative paths of a Recipe in
    memory start. Raises the errors of `trivium.errors`.
    """
    from trivium.pipeline.run import run as run_pipeline
    from trivium.pipeline.stages import STAGES
    from trivium.pipeline.store import opened

    folder: Path = Path(recipe_folder)
    if not isinstance(recipe, Recipe):
        folder = Path(recipe).resolve().parent
        recipe = load_recipe(Path(recipe), overrides)
    places: dict[str, Any] = {"store": opened(store), "runs_folder": Path(runs), "recipe_folder": folder}
    return run_pipeline(recipe, registry=STAGES, emit=emit, only=only, **places)
