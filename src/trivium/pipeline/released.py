"""Whether a folder is a release that may be put in front of users: whole, and with passed gates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trivium import files
from trivium.errors import ArtifactError, GateError
from trivium.pipeline.store import Store


def check_release(folder: Path) -> dict[str, Any]:
    """What a release is known by: kind, stage, fingerprint, gates passed. Every file's checksum is held against its record.

    ArtifactError where a file is damaged, GateError for what is no release or has no gate, or one that did not pass.
    """
    artifact = Store(folder.parent).open(folder)
    fix = "name the folder of a `release` stage whose `requires` has gates, or say --without-gates: the log keeps that"
    if artifact.kind != "release":
        raise GateError(
            f"{folder} is the artifact of a {artifact.kind} stage: no gate stands before it", fix=fix
        )
    try:
        required = artifact.record["identity"]["extra"]["names"][1:]  # after the model's
        evaluations = files.read_json(artifact.path / "report.json")["gates"]
        gates = {
            f"{stage}: {metric}": gate
            for stage in required
            for metric, gate in evaluations[stage]["gates"].items()
        }
        failed = sorted(name for name, gate in gates.items() if gate["passed"] is not True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"the release has no readable report of its gates: {error!r}", where=str(folder), fix=fix
        ) from None
    if not gates:
        raise GateError(f"{folder} was released without a gate", fix=fix)
    if failed:
        raise GateError(f"{len(failed)} gates of {folder} did not pass: {', '.join(failed)}", fix=fix)
    return {
        "kind": artifact.kind, "stage": artifact.stage, "fingerprint": artifact.fingerprint, "gates": len(gates),
    }  # fmt: skip
