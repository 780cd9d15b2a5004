"""What fills the disk, and what no run stands on."""

from __future__ import annotations

from nicegui import ui

from trivium.errors import ArtifactError
from trivium.pipeline.housekeeping import PARTS
from trivium.pipeline.shared import inventory
from trivium.recipe.suite import megabytes
from trivium.ui.parts import Place, frame, missing, table


def register(place: Place) -> None:
    @ui.page("/store", title="Trivium: store")
    def store() -> None:
        frame("Store")
        try:
            entries = list(inventory(place.store, [place.runs]).entries())
        except ArtifactError as error:
            missing(str(error))
            return
        sums = []
        for part, what in PARTS.items():
            here = [entry for entry in entries if entry.part == part]
            used = sum(entry.bytes for entry in here if entry.reachable)
            total = sum(entry.bytes for entry in here)
            sums.append((what, len(here), megabytes(total), megabytes(total - used)))
        table(("part", "folders", "size", "not in use"), sums)
        ui.label("`trivium store gc` lists what would go, and --apply deletes it.")
        cells = [
            (
                entry.path.name[:12],
                (entry.record or {}).get("kind", "damaged"),
                f"{(entry.record or {}).get('recipe', '?')}/{(entry.record or {}).get('stage', '?')}",
                megabytes(entry.bytes),
                ", ".join(entry.links) or ("what stands on it" if entry.reachable else "nothing"),
            )
            for entry in entries
            if entry.part == "artifacts"
        ]
        table(("artifact", "kind", "made as", "size", "in use by"), cells, pagination=50)
