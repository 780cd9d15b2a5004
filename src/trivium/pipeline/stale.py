"""Which artifacts of a run the stages of today would make otherwise: a kind's version is raised when it does."""

from __future__ import annotations

from pathlib import Path

from trivium.pipeline.contract import Registry
from trivium.pipeline.record import previous


def stale(links: Path, registry: Registry) -> dict[str, str]:
    """Stage -> why the next run makes it anew, for a folder runs/RECIPE; what is made from such a stage is among them."""
    found = {link.name: previous(link) for link in sorted(links.iterdir()) if link.is_symlink()}
    artifacts = {name: artifact for name, artifact in found.items() if artifact is not None}
    why: dict[str, str] = {}
    for name, artifact in artifacts.items():
        kind, made = registry.get(artifact.kind), artifact.record["identity"].get("version")
        if kind is not None and made != kind.version:
            why[name] = f"made by version {made} of `{artifact.kind}`, which is at {kind.version}"
    grown = True
    while grown:
        grown = False
        for name, artifact in artifacts.items():
            parent = next((parent for parent in artifact.inputs if parent in why), None)
            if name not in why and parent is not None:
                why[name] = f"made from {parent}"
                grown = True
    return why
