"""An artifact's record (artifact.json), and what a full or read-only disk is called."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trivium import files
from trivium.errors import ArtifactError, TriviumError
from trivium.pipeline.contract import Artifact

RECORD = "artifact.json"
SIGNATURES = "signatures.jsonl"
"""The one file that may be added to a finished artifact: who vouches for it (see `trivium.pipeline.signatures`)."""
_FULL = {errno.ENOSPC, errno.EDQUOT}
_CLOSED = {errno.EROFS, errno.EACCES, errno.EPERM}


def read(path: Path) -> Artifact:
    """An artifact's record, checked in itself; the other files are not. ArtifactError if damaged."""
    file = path / RECORD
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise damaged(path, f"{file} is missing, so {path} is no whole artifact") from None
    except ValueError as error:
        raise damaged(path, f"{file} is damaged: {error}") from None
    if not isinstance(record, dict) or "sha256" not in record:
        raise damaged(path, f"{file} is no artifact record")
    actual = record_checksum(record)
    if actual != record["sha256"]:
        raise damaged(
            path, f"{file} is damaged: its SHA-256 is {actual}, it was made with {record['sha256']}"
        )
    return Artifact(path, record)


def previous(link: Path) -> Artifact | None:
    """What a readable link points at, or None if it leads nowhere that can be read."""
    try:
        return read(link.resolve())
    except (ArtifactError, OSError):
        return None


def disk_full(error: BaseException | None) -> bool:
    """Whether a full disk is what an error comes from."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        error = error.__cause__ or error.__context__
    return False


def full(where: Path | str) -> TriviumError:
    return TriviumError(
        "the disk is full; nothing was lost: finished stages are stored, and the work of this one is kept",
        where=str(where),
        fix="free some space and run the same command again: it goes on where it stopped",
    )


@contextlib.contextmanager
def writing(where: Path) -> Iterator[None]:
    """Says a full or read-only disk in words."""
    try:
        yield
    except OSError as error:
        if disk_full(error):
            raise full(where) from error
        if error.errno in _CLOSED:
            raise TriviumError(
                f"cannot write to {error.filename or where}: {error.strerror}",
                where=str(where),
                fix="make the folder writable, or name another one",
            ) from error
        raise


def damaged(path: Path, what: str, move: str = "") -> ArtifactError:
    """What is said of a damaged artifact; `move`: a file that would only have to go."""
    fix = f"move {move} out of it, or " if move else ""
    return ArtifactError(
        what,
        where=str(path),
        fix=f"{fix}delete the artifact's folder and run the recipe again: the stage is made anew",
    )


def record_checksum(record: dict[str, Any]) -> str:
    """The SHA-256 of all of a record but itself."""
    rest = {key: value for key, value in record.items() if key != "sha256"}
    return hashlib.sha256(files.canonical_json(rest).encode()).hexdigest()


def finite(value: Any) -> Any:
    """JSON has no NaN: numbers that are not finite become null."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
