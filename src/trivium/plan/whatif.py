"""What a budget or a deadline buys: gates on a plan, and the number of devices that would keep them."""

from __future__ import annotations

from collections.abc import Mapping

from trivium.errors import GateError, RecipeError
from trivium.plan.hardware import LARGEST, Accelerator, Cluster
from trivium.plan.project import Project, project
from trivium.recipe.lines import listed
from trivium.recipe.models import Recipe
from trivium.recipe.parallel import AUTO
from trivium.recipe.training import TrainingStage


def devices_for(
    recipe: Recipe, device: Accelerator, hours: float, characters: Mapping[str, int] | None = None
) -> Project | None:
    """The plan on the least power of two of devices that is expected to end within `hours`; None where no number does."""
    count, best = 1, float("inf")
    idle = 0  # doublings in a row that gained nothing: the batches feed no more devices
    while count <= LARGEST and idle < 2:
        try:
            found = project(recipe, Cluster(device, count), characters)
        except RecipeError:  # too few to hold the model
            count *= 2
            continue
        if found.hours.expected <= hours:
            return found
        idle = idle + 1 if found.hours.expected > 0.98 * best else 0
        best = min(best, found.hours.expected)
        count *= 2
    return None


def sooner(recipe: Recipe) -> str:
    """What a recipe could say to end earlier, where more devices do not help it."""
    fixed = [
        name
        for name, stage in recipe.stages.items()
        if isinstance(stage, TrainingStage) and stage.parallel != AUTO and stage.parallel.ranks > 1
    ]
    layout = f"`parallel: auto` for {listed(fixed)}, " if fixed else ""
    return f"{layout}a larger `batch`, fewer tokens, or a faster device"


def check(
    found: Project,
    recipe: Recipe,
    budget: float | None,
    deadline: float | None,
    characters: Mapping[str, int] | None = None,
) -> list[str]:
    """Says how a budget (US dollars) and a deadline (hours) are kept. GateError where what is expected is above one of them."""
    said = []
    if budget is not None:
        said.append(_budget(found, budget))
    if deadline is not None:
        hours = found.hours
        if hours.expected > deadline:
            other = devices_for(recipe, found.cluster.accelerator, deadline, characters)
            fix = (
                f"{other.cluster} would: {other.hours.expected:,.3g} hours ({other.hours.low:,.3g} – {other.hours.high:,.3g})"
                if other is not None
                else f"no number of these devices would as the recipe is: {sooner(recipe)}"
            )
            raise GateError(
                f"{found.cluster} is expected to take {hours.expected:,.3g} hours ({hours.low:,.3g} – {hours.high:,.3g}), more "
                f"than the {deadline:,.3g} of the deadline",
                fix=fix,
            )
        said.append(
            f"the deadline of {deadline:,.3g} h {_how(hours.high <= deadline, hours.expected / deadline)}"
        )
    return said


def _budget(found: Project, budget: float) -> str:
    dollars = found.dollars
    if dollars is None:
        raise RecipeError(
            "no price is known for this accelerator, so no budget can be held against it",
            fix="give `price_usd_per_hour` in a cluster file",
        )
    if dollars.expected > budget:
        share = budget / dollars.expected
        largest = max(
            (phase for phase in found.phases if phase.dollars),
            key=lambda one: one.hours.expected * one.devices,
        )
        rest = dollars.expected - (largest.dollars.expected if largest.dollars else 0.0)
        fix = f"it buys {share:.0%} of this plan"
        if largest.dollars and largest.cost and largest.cost.tokens and budget > rest:
            tokens = largest.cost.tokens * (budget - rest) / largest.dollars.expected
            fix += f": {largest.stage} with {tokens:.3g} tokens instead of {largest.cost.tokens:.3g}, all else as it is"
        raise GateError(
            f"the plan is expected to cost {dollars.expected:,.0f} $ ({dollars.low:,.0f} – {dollars.high:,.0f}), more than the "
            f"budget of {budget:,.0f} $",
            fix=fix,
        )
    return f"the budget of {budget:,.0f} $ {_how(dollars.high <= budget, dollars.expected / budget)}"


def _how(surely: bool, share: float) -> str:
    return (
        f"is kept ({share:.0%} expected)"
        if surely
        else f"is kept as expected ({share:.0%}), but not at the high end"
    )
