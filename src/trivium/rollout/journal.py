"""Where a rollout's log is kept: a database (`database.py`), or JSON lines, read with the number of every line that is none."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout

from trivium import files
from trivium.errors import ArtifactError, TriviumError
from trivium.rollout.log import Event, event_of

log = logging.getLogger("trivium.rollout")
LINES = (".jsonl", ".ndjson")
"""How files of JSON lines are called; any other file is SQLite."""


class Journal(Protocol):
    """A log that is gone on with. All but `leave` and `close` raise OSError where the log cannot be reached or written."""

    where: str
    shared: bool
    """Several routers take turns; what they write comes with `enter`."""

    def open(self) -> None:
        """From here on this router writes it. ArtifactError where it may not."""

    def read(self, again: bool = False) -> Iterator[Event]:
        """What is there and has not been read or written here (`again`: all of it), without taking a turn."""

    def enter(self) -> list[Event]:
        """Takes the turn, with what has been written meanwhile."""

    def write(self, events: Sequence[Event]) -> None:
        """Adds events, all or none, and ends the turn."""

    def leave(self) -> None:
        """Ends the turn without a word."""

    def close(self) -> None: ...


def journal_at(place: Path | str) -> Journal:
    """The log at a path, or at a database's address."""
    if Path(place).suffix in LINES and "://" not in str(place):
        return Lines(Path(place))
    try:
        from trivium.rollout.database import Database
    except ModuleNotFoundError as error:
        raise TriviumError(
            f"a log in a database needs {error.name}", fix="pip install 'trivium[rollout]'"
        ) from None
    return Database(str(place))


def events(place: Path | str) -> Iterator[Event]:
    """The events of a log, of whichever form. ArtifactError where there is none, or it cannot be read."""
    if "://" not in str(place) and not Path(place).exists():
        raise ArtifactError("there is no such log", where=str(place), fix="check the path")
    journal = journal_at(place)
    try:
        yield from journal.read()
    except OSError as error:
        raise ArtifactError(
            f"the log cannot be read: {error}", where=journal.where, fix="check the path"
        ) from None
    finally:
        journal.close()


class Lines:
    """A file of JSON lines, for one router."""

    shared = False

    def __init__(self, path: Path) -> None:
        self.path, self.where = path, str(path)
        self._lock = FileLock(f"{path}.lock")
        self._read = False

    def open(self) -> None:
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            fix = (
                "one file has one router (several share a PostgreSQL); stop the other, or name another --log"
            )
            raise ArtifactError("another router writes this log", where=self.where, fix=fix) from None
        torn = files.cut_torn_line(self.path)
        if torn:
            log.warning("%d bytes of a line that a kill had cut were taken from %s", torn, self.path)

    def read(self, again: bool = False) -> Iterator[Event]:
        self._read = True
        if self.path.exists():
            yield from read(self.path)

    def enter(self) -> list[Event]:
        return [] if self._read else list(self.read())

    def write(self, events: Sequence[Event]) -> None:
        if events:
            write(self.path, events)

    def leave(self) -> None:
        pass

    def close(self) -> None:
        self._lock.release()


def read(path: Path) -> Iterator[Event]:
    """The events in lines of JSON. ArtifactError, with its number, for a line that is no event, and where there is no file."""
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                yield event_of(line, f"{path}, line {number}")
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(
            f"the log cannot be read: {error}", where=str(path), fix="check the path"
        ) from None


def write(path: Path, events: Sequence[Event]) -> None:
    """Adds lines, all or none, and waits until they are on the disk. OSError where they cannot be."""
    lines = (
        json.dumps(event, ensure_ascii=False, separators=(",", ":"), allow_nan=False) for event in events
    )
    files.append_line(path, "\n".join(lines), sync=True)
