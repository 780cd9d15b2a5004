"""A plan as plain JSON values, and what each of its numbers was made from."""

from __future__ import annotations

from typing import Any

from trivium.plan.bands import Band
from trivium.plan.project import Phase, Project


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
        plain["layouts"] = {"legal": found.legal, "fitting": found.fitting}
    return plain
