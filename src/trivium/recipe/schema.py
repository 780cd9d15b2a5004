"""The JSON Schema of a recipe, for editors to complete and check, and the starter recipe."""

from __future__ import annotations

from importlib import resources
from typing import Any

from trivium.recipe.models import Recipe


def schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a recipe as it may be *written*: counts as `3M`, durations as `5min`."""
    found = Recipe.model_json_schema(mode="validation")
    found["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    found["title"] = "Trivium recipe"
    requires = found["$defs"]["ReleaseStage"]["properties"]["requires"]
    items = requires.pop("items")
    requires.pop("type")
    requires["anyOf"] = [items, {"type": "array", "items": items}]
    return found


def starter(name: str) -> str:
    """The commented starter recipe, named `name`."""
    text = resources.files("trivium.recipe").joinpath("starter.yaml").read_text(encoding="utf-8")
    return (
        text.replace("name: my-model", f"name: {name}")
        .replace("RECIPE.yaml", f"{name}.yaml")
        .replace("NAME", name)
    )
