"""A plan as plain JSON values, and what each of its numbers was made from."""

from __future__ import annotations

from typing import Any

from trivium.errors import RecipeError
from trivium.model.config import ModelConfig
from trivium.plan import failures, flops, roofline, scaling, search
from trivium.plan.bands import Band
from trivium.plan.project import Phase, Project
from trivium.recipe.lines import listed, nearest


def as_plain(project: Project) -> dict[str, Any]:
    """Bands as {low, expected, high}; bytes, seconds, hours, US dollars, kWh as their keys say."""
    return {
        "recipe": project.recipe,
        "cluster": {"accelerator": project.cluster.accelerator.id, "count": project.cluster.count},
        "stages": {phase.stage: _phase(phase) for phase in project.phases},
        "hours": _band(project.hours),
        "dollars": _band(project.dollars),
        "kwh": _band(project.energy),
        "co2_kg": _band(project.carbon),
    }


def _band(band: Band | None) -> dict[str, float] | None:
    return None if band is None else dict(vars(band))


def _phase(phase: Phase) -> dict[str, Any]:
    found, cost = phase.found, phase.cost
    plain: dict[str, Any] = {
        "kind": phase.kind,
        "devices": phase.devices,
        "parameters": cost.parameters if cost else None,
        "tokens": cost.tokens if cost else None,
        "flops": cost.flops if cost else None,
        "hours": _band(phase.hours),
        "dollars": _band(phase.dollars),
        "kwh": _band(phase.energy),
        "roofline_seconds": dict(phase.seconds),
        "doubts": {doubt.name: dict(vars(doubt.band)) for doubt in phase.doubts},
        "note": phase.note,
    }
    if found is not None:
        shape, step = found.winner.shape, found.winner.step
        plain["layout"] = {
            **shape.parallel.model_dump(),
            "micro_batch": shape.micro,
            "recompute": "blocks" if shape.recompute else "none",
        }
        plain["memory_bytes"] = found.winner.memory.parts()
        plain["step_seconds"] = dict(step.parts)
        plain["utilisation_at_roofline"] = step.utilisation(found.cluster)
        plain["layouts"] = {"legal": found.legal, "fitting": found.fitting, "why": layout(found)}
    return plain


def layout(found: search.Found) -> list[str]:
    """Why the winner won and the next layout lost."""
    winner, step = found.winner, found.winner.step
    causes = sorted(step.parts.items(), key=lambda part: -part[1])
    most = ", ".join(f"{cause} {seconds / step.seconds:.0%}" for cause, seconds in causes[:3])
    lines = [
        f"{winner} is the fastest of {found.fitting:,} that fit ({found.legal:,} are legal): {_time(step.seconds)} a step, of "
        f"which {most}. It holds {winner.memory.total / 2**30:.1f} of the "
        f"{search.ROOM * found.cluster.accelerator.memory / 2**30:.1f} GiB that are planned for on each device, and reaches "
        f"{step.utilisation(found.cluster):.0%} of the peak at the roofline."
    ]
    other = found.runner_up
    if other is None:
        return [*lines, "No other grid fits."]
    more = other.step.seconds / step.seconds - 1
    differences = {
        cause: other.step.parts.get(cause, 0.0) - step.parts.get(cause, 0.0)
        for cause in {**step.parts, **other.step.parts}
    }
    cause = max(differences, key=lambda one: differences[one])
    if more <= search.EQUAL:
        why = "as fast, and cuts the model more"
    else:
        why = f"{more:.0%} slower: {_time(differences[cause])} more for {cause}"
    return [*lines, f"The next, {other}, is {why}."]


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"


QUANTITIES = ("minutes", "dollars", "memory", "layout", "flops", "interruptions", "scaling")


def terms(project: Project, asked: str) -> list[str]:
    """What `STAGE.QUANTITY` was made from, term by term. RecipeError for a stage or a quantity that there is not."""
    stage, _, quantity = asked.rpartition(".")
    phases = {phase.stage: phase for phase in project.phases}
    if stage not in phases or quantity not in QUANTITIES:
        word, choices = (quantity, QUANTITIES) if stage in phases else (stage, tuple(phases))
        raise RecipeError(
            f"nothing is known of `{asked}`",
            where=f"--explain {asked}",
            fix=f"{nearest(word, choices)}write STAGE.QUANTITY: one of {listed(phases)}, then one of {listed(QUANTITIES)}",
        )
    phase = phases[stage]
    if not phase.seconds and not (phase.found and quantity in ("memory", "layout")):
        return [f"{asked}: not counted ({phase.note or 'no arithmetic to speak of'})"]
    lines = EXPLAIN[quantity](phase, project)
    return [f"{asked}:", *(f"  {line}" for line in lines)]


def _minutes(phase: Phase, project: Project) -> list[str]:
    whole = sum(phase.seconds.values())
    lines = [
        f"{cause:22} {seconds / 60:12,.2f} min  {seconds / whole:6.1%}"
        for cause, seconds in sorted(phase.seconds.items(), key=lambda part: -part[1])
    ]
    lines.append(f"{'at the roofline':22} {whole / 60:12,.2f} min  on {phase.devices:,} devices")
    lines += [f"divided by {doubt}" for doubt in phase.doubts]
    band = phase.hours * 60.0
    return [*lines, f"= {band.expected:,.2f} min ({band.low:,.2f} – {band.high:,.2f})"]


def _dollars(phase: Phase, project: Project) -> list[str]:
    price = project.cluster.accelerator.price
    if phase.dollars is None or price is None:
        return ["no price is known for this accelerator: give `price_usd_per_hour` in a cluster file"]
    return [
        f"{phase.hours.expected:,.3g} hours ({phase.hours.low:,.3g} – {phase.hours.high:,.3g})",
        f"times {phase.devices:,} devices",
        f"times {price.low:.2f} – {price.expected:.2f} – {price.high:.2f} $ an hour ({project.cluster.accelerator.price_basis})",
        f"= {phase.dollars.expected:,.2f} $ ({phase.dollars.low:,.2f} – {phase.dollars.high:,.2f})",
    ]


def _memory(phase: Phase, project: Project) -> list[str]:
    if phase.found is None:
        return ["one device, and nothing is trained on it"]
    held = phase.found.winner.memory
    lines = [f"{cause:12} {size / 2**30:10.3f} GiB" for cause, size in held.parts().items()]
    room = project.cluster.accelerator.memory / 2**30
    return [
        *lines,
        f"{'all':12} {held.total / 2**30:10.3f} GiB on each device, which has {room:.1f}: {phase.found.winner}",
    ]


def _layout(phase: Phase, project: Project) -> list[str]:
    return layout(phase.found) if phase.found is not None else ["one process on one device"]


def _flops(phase: Phase, project: Project) -> list[str]:
    cost = phase.cost
    if cost is None or cost.flops is None or cost.tokens is None:
        return [phase.note]
    lines = [
        f"{cost.tokens:,.0f} tokens",
        f"times {cost.flops / cost.tokens:,.4g} FLOP a token, of {cost.parameters:,} parameters",
        f"= {cost.flops:.4g} FLOP (whole squares of attention; recomputation is no work)",
    ]
    if phase.found is not None and phase.config is not None:
        seen = causal(phase.config, phase.found.winner.shape, cost.flops / cost.tokens)
        lines.append(
            f"= {seen * cost.tokens:.4g} FLOP without the half of the squares that a causal mask hides: a utilisation that is "
            f"counted so is {1 - seen * cost.tokens / cost.flops:.0%} lower"
        )
    return lines


def causal(config: ModelConfig, shape: roofline.Shape, each: float) -> float:
    """Of `each` FLOP a token, those that a causal mask leaves. Adapters pass their squares once more than their products."""
    square, frozen = flops.square(config) * shape.context, shape.trained is not None
    rounds = (each - frozen * square) / flops.forward(config, shape.context) + frozen
    return each - rounds * square / 2


def _interruptions(phase: Phase, project: Project) -> list[str]:
    if phase.cost is None or not phase.cost.parameters:
        return [phase.note]
    job = failures.job_of(phase.cost.parameters, phase.devices)
    lines = failures.said(job, phase.hours.expected)
    work = min(phase.hours.expected * failures.HOUR, MOST_PLAYED * job.between)
    shares = sorted(failures.play(job, work, seed).effective for seed in range(PLAYED))
    return [
        *lines,
        f"played {PLAYED} times: {shares[0]:.1%} to {shares[-1]:.1%} of the time makes steps that last",
    ]


def _scaling(phase: Phase, project: Project) -> list[str]:
    cost = phase.cost
    if phase.kind != "pretrain" or cost is None or not cost.parameters or not cost.tokens:
        return ["the laws are of pre-training"]
    experts = phase.config is not None and phase.config.experts is not None
    lines = scaling.said(cost.parameters, cost.tokens, cost.unique)
    return ["the laws are of dense models: read them for the order of size", *lines] if experts else lines


PLAYED, MOST_PLAYED = 20, 1000
"""Runs that are played through, and the interruptions of each at most."""

EXPLAIN = {
    "minutes": _minutes,
    "dollars": _dollars,
    "memory": _memory,
    "layout": _layout,
    "flops": _flops,
    "interruptions": _interruptions,
    "scaling": _scaling,
}
