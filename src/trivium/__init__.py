"""Trivium: language models end to end, from one recipe.

    from trivium import Recipe, run, load_model, load_recipe

Heavy names are imported on first use, so that `trivium --help` answers at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trivium.errors import TriviumError
from trivium.recipe.models import Recipe

if TYPE_CHECKING:
    from trivium.api import load_model, load_recipe, load_tokenizer, run

__version__ = "0.1.0"
__all__ = ["Recipe", "TriviumError", "load_model", "load_recipe", "load_tokenizer", "run"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from trivium import api

        return vars(api)[name]
    raise AttributeError(f"module 'trivium' has no attribute {name!r}")
