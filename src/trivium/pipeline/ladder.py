"""A ladder of small models through the ordinary pipeline, and what it says of the run that a recipe asks for.

Widths and tokens of a pretrain stage are cut to shares of the recipe's; each rung is a recipe of its own, so that what has run
is kept and nothing runs twice. The largest rung is held out: a law fitted to the others has to predict it before it may speak
of the target. Depth, learning rate and batch stay as they are; with `mup` the rate means the same at each width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trivium.errors import RecipeError
from trivium.plan.fit import Fit, Point, fit
from trivium.recipe.models import Recipe
from trivium.recipe.network import ModelShape
from trivium.recipe.training import PretrainStage

SHARES = (1 / 8, 1 / 4, 1 / 2)
"""Of the recipe's width and of its tokens: nine rungs, which together take about a third of the run's arithmetic."""
NARROW = 16
"""Least width of a head."""


@dataclass(frozen=True)
class Climbed:
    """The rungs, smallest first; the law of all, and what the law of all but the last predicted for it."""

    points: tuple[Point, ...]
    law: Fit
    held_out: tuple[float, float, float]
    """Low, expected, high of the largest rung's loss."""
    target: tuple[float, float]
    """Parameters and tokens of the recipe's own run."""

    @property
    def off(self) -> float:
        """Predicted over measured loss of the rung that was held out, less 1."""
        return self.held_out[1] / self.points[-1].loss - 1


def base_of(recipe: Recipe) -> tuple[str, PretrainStage]:
    """The pretrain stage that is climbed to."""
    found = {name: s for name, s in recipe.stages.items() if isinstance(s, PretrainStage) and s.init is None}
    if len(found) == 1:
        return next(iter(found.items()))
    raise RecipeError(
        f"{len(found)} stages could be climbed to",
        fix=f"a ladder is for one pretrain stage with a `model`: {', '.join(found) or 'there is none'}",
    )


def rungs(recipe: Recipe) -> list[tuple[str, ...]]:
    """The overrides of each rung, as `-o` takes them: smallest first, the largest last."""
    name, base = base_of(recipe)
    if base.tokens is None:
        raise RecipeError(
            f"`{name}` does not say its tokens", fix="write `tokens` instead of epochs or steps"
        )
    shapes = list(dict.fromkeys(narrowed(base.model, share) for share in SHARES))
    if len(shapes) < 2:
        raise RecipeError(
            f"a model of width {base.model.dim} is too narrow for a ladder below it",
            fix=f"climb to one of width {int(2 * NARROW / SHARES[0])} or more",
        )
    made = []
    for shape in shapes:
        for share in SHARES:
            tokens = int(base.tokens * share)
            made.append(
                (*(f"{name}.model.{field}={value}" for field, value in shape), f"{name}.tokens={tokens}")
            )
    return made


def narrowed(model: ModelShape, share: float) -> tuple[tuple[str, int], ...]:
    """The fields of `model` at `share` of its width: heads stay as many as long as they are `NARROW` wide."""
    dim = max(NARROW, round(model.dim * share / NARROW) * NARROW)
    keys = model.kv_heads or model.heads
    heads = model.heads
    while heads > 1 and (dim % heads or dim // heads < NARROW or (dim // heads) % 2):
        heads -= 1
    keys = max(size for size in range(1, min(keys, heads) + 1) if heads % size == 0)
    found = [("dim", dim), ("heads", heads), ("kv_heads", keys)]
    if model.hidden is not None:
        found.append(("hidden", max(NARROW, round(model.hidden * share / NARROW) * NARROW)))
    return tuple(found)


def climb(
    overrides: Sequence[tuple[str, ...]], run: Callable[[Sequence[str]], Point], target: tuple[float, float]
) -> Climbed:
    """Runs every rung (`run`: overrides -> what it was and its held-out loss) and fits their law. DataError from `plan.fit`."""
    points = tuple(run(rung) for rung in overrides)
    return Climbed(
        points, fit(points), fit(points[:-1]).predict(points[-1].parameters, points[-1].tokens), target
    )
