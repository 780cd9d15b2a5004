"""A recipe file -> a checked `Recipe`, or a RecipeError: what, where (line, stage, field), what to do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from trivium.errors import RecipeError
from trivium.recipe import override, reader, traps
from trivium.recipe.explain import explain
from trivium.recipe.lines import nearest, together
from trivium.recipe.models import Recipe


def load(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads the recipe at `path`, applies overrides such as `chat.lr=2e-5`, checks all that needs no data.

    RecipeError for a file that cannot be read, YAML that is none, an invalid key or value, or a trap.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        beside = [file.name for file in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        raise RecipeError(
            f"there is no recipe {path}",
            where=str(path),
            fix=f"{nearest(path.name, beside)}check the path, or write a starter with `trivium init NAME`",
        ) from error
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"the recipe is not UTF-8 text: {error.reason} at byte {error.start}",
            where=str(path),
            fix="save the file as UTF-8; a recipe is a YAML text file",
        ) from error
    except OSError as error:
        raise RecipeError(
            f"the recipe cannot be read: {error.strerror}",
            where=str(path),
            fix="give the path of a YAML file",
        ) from error
    return loads(text, overrides, file=str(path))


def loads(text: str, overrides: Sequence[str] = (), *, file: str = "recipe.yaml") -> Recipe:
    """As `load`, for a recipe in a string; `file` is the name that errors give it."""
    raw, lines = reader.read(text, file)
    override.apply(raw, overrides, lines)
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        raise together(explain(error, raw, lines), file) from None
    traps.check(recipe, lines)
    return recipe
