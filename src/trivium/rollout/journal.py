"""A rollout's log on the disk: JSON lines, read with the number of every line that is none, written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from trivium import files
from trivium.errors import ArtifactError
from trivium.rollout.log import Event


def read(path: Path) -> Iterator[Event]:
    """The events of a log. ArtifactError, with its number, for a line that is no event, and where there is no log."""
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                yield _event(line, f"{path}, line {number}")
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(
            f"the log cannot be read: {error}", where=str(path), fix="check the path"
        ) from None


def _event(line: str, where: str) -> Event:
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    if not isinstance(event, dict) or not isinstance(event.get("t"), int | float) or "event" not in event:
        raise ArtifactError("a line that is no event", where=where, fix="the log is damaged or cut")
    return event


def write(path: Path, events: Sequence[Event]) -> None:
    """Adds events, all or none, and waits until they are on the disk. OSError where they cannot be."""
    lines = (
        json.dumps(event, ensure_ascii=False, separators=(",", ":"), allow_nan=False) for event in events
    )
    files.append_line(path, "\n".join(lines), sync=True)
