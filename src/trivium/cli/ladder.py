"""`trivium plan --ladder`: small models of a recipe are trained, and their losses say what the recipe's own run would reach."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from trivium.cli import commands
from trivium.errors import DataError

if TYPE_CHECKING:
    from trivium.pipeline.ladder import Climbed


def ladder(path: Path, overrides: Sequence[str] | None, store: str, runs: Path) -> None:
    """Trains the rungs that the store does not hold, and prints them, the held-out rung, the law and the target."""
    recipe = commands.load(path, overrides)
    from trivium.console import Progress
    from trivium.pipeline import ladder as climbing
    from trivium.pipeline import run as pipeline
    from trivium.plan.cost import model_of
    from trivium.plan.fit import Point
    from trivium.plan.flops import parameters
    from trivium.recipe.lines import Lines
    from trivium.recipe.look import Look

    name, base = climbing.base_of(recipe)
    steps = climbing.rungs(recipe)
    places = commands.places_of(path, store, runs)

    def run(rung: Sequence[str]) -> Point:
        small = commands.load(path, [*(overrides or ()), *rung])
        small = small.model_copy(update={"name": f"{recipe.name}-ladder"})
        with Progress() as progress:
            made = pipeline.run(small, **places, emit=progress, only=[name])[name]
        after = made.metrics.get("after")
        if not after or "loss" not in after:
            raise DataError(
                f"{name} measured no held-out loss", fix="let its data stage hold out some of its documents"
            )
        return Point(float(made.metrics["parameters"]), float(made.metrics["tokens"]), float(after["loss"]))

    config = model_of(Look(recipe, Lines()), name)
    assert config is not None and base.tokens is not None
    climbed = climbing.climb(steps, run, (parameters(config), base.tokens))
    console = Console(highlight=False)
    console.print(_rungs(climbed), *_said(climbed), sep="\n")


def _rungs(climbed: Climbed) -> Table:
    table = Table(title="the rungs", title_justify="left")
    for heading in ("parameters", "tokens", "held-out loss", "the law says"):
        table.add_column(heading, justify="right")
    for point in climbed.points:
        law = climbed.law.law.loss(point.parameters, point.tokens)
        table.add_row(f"{point.parameters:,.0f}", f"{point.tokens:,.0f}", f"{point.loss:.4f}", f"{law:.4f}")
    return table


def _said(climbed: Climbed) -> list[Text]:
    law, last = climbed.law.law, climbed.points[-1]
    low, expected, high = climbed.held_out
    size, tokens = climbed.target
    least, most_likely, most = climbed.law.predict(size, tokens)
    best, enough = law.optimum(6 * size * tokens)
    exponents = [(one.alpha, one.beta) for one in climbed.law.resamples]
    alphas, betas = (sorted(values) for values in zip(*exponents, strict=True))
    tenth = len(alphas) // 10
    return [
        Text(
            f"held out, the largest: {last.loss:.4f} measured, "
            f"{expected:.4f} predicted by the others "
            f"({low:.4f} – {high:.4f}): {climbed.off:+.1%}"
        ),
        Text(
            f"loss(N, D) = {law.floor:.3f} + {law.a:.3g} / N^{law.alpha:.2f} + {law.b:.3g} / D^{law.beta:.2f}; in 80% of "
            f"resamples alpha {alphas[tenth]:.2f} – {alphas[-tenth - 1]:.2f}, beta {betas[tenth]:.2f} – {betas[-tenth - 1]:.2f}"
        ),
        Text(
            f"the recipe's own run, {size:,.0f} parameters on {tokens:,.0f} tokens: {most_likely:.4f} ({least:.4f} – "
            f"{most:.4f}); its FLOP would be spent best on {best:.3g} parameters and {enough:.3g} tokens"
        ),
    ]
