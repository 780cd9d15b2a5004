"""A lock among machines: objects with numbers, of which only one writer can make the next, and a heart that beats.

    leases/NAME/00000007          made once (`Objects.create`), never written again: who holds it
    leases/NAME/00000007.HOLDER   written again and again while it is held; empty once it is given back

The highest number counts. Whoever finds that it has been given back, or that it has not beaten for as long as it said, makes the
next one. No clock of ours is believed: the age of a beat is the difference of two times that the keeper of the objects put
down, of the beat and of an object written just now. The highest number is never deleted, so that none comes twice.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from trivium.errors import TriviumError
from trivium.pipeline.objects import Found, Objects

FOLDER = "leases"
SECONDS = 60.0
"""After so long without a beat a lease counts as left behind. It beats three times as often."""
SWEEP = "gc"
"""The name of the lease under which objects are deleted. It goes before all others."""
BEAT = b"held\n"
GRAIN = 1.0
"""Seconds to which S3 tells when an object was written."""


class Lease:
    """One try to be the only one that works on `name`. Used by one thread; a second one keeps it alive."""

    def __init__(self, objects: Objects, name: str, seconds: float = SECONDS) -> None:
        self.objects, self.name, self.seconds = objects, name, seconds
        self.holder = secrets.token_hex(16)
        self.number = 0
        self._beaten = -float("inf")
        """When the last beat that arrived was begun, by this process's monotonic clock."""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def held(self) -> bool:
        """Whether nobody can have taken it over yet."""
        return self.number > 0 and time.monotonic() - self._beaten < self.seconds

    def try_acquire(self) -> bool:
        """Takes it if nobody has it."""
        self.objects.ready()
        entries = self._entries()
        last = _last(entries)
        if last and self._alive(entries, last):
            return False
        about = {"holder": self.holder, "host": platform.node(), "pid": os.getpid(), "seconds": self.seconds}
        began = time.monotonic()
        if not self.objects.create(self._name(last + 1), json.dumps(about).encode()):
            return False
        self.number, self._beaten = last + 1, began
        self.objects.write(self._beat, BEAT)
        entries = self._entries()
        if _last(entries) != self.number:  # our look was old, and the number came from one that is deleted
            self.number = 0
            return False
        self.objects.delete(name for name in entries if 0 < _number(name) < self.number)
        self._stop.clear()
        self._thread = threading.Thread(target=self._keep, daemon=True, name=f"lease of {self.name}")
        self._thread.start()
        return True

    def acquire(self, on_wait: Callable[[], None] = lambda: None) -> None:
        """Takes it as soon as nobody has it, and nobody deletes; calls `on_wait` if that is not at once."""
        told = False
        while not self.try_acquire():
            if not told:
                on_wait()
            told = True
            time.sleep(min(1.0, self.seconds / 10))
        wait_for_sweep(self.objects, on_wait, self.seconds)

    def renew(self) -> bool:
        """Lets it beat now; whether it is still ours."""
        if not self.number:
            return False
        began = time.monotonic()
        entries = self._entries()
        if _last(entries) != self.number:
            self.number = 0
            return False
        self.objects.write(self._beat, BEAT)
        self._beaten = began
        return True

    def release(self) -> None:
        """Gives it back. What cannot be told (the keeper is away) expires."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        if self.number:
            with suppress(TriviumError):
                self.objects.write(self._beat, b"")
        self.number = 0

    @property
    def _beat(self) -> str:
        return f"{self._name(self.number)}.{self.holder}"

    def _name(self, number: int) -> str:
        return f"{FOLDER}/{self.name}/{number:08d}"

    def _entries(self) -> dict[str, Found]:
        return self.objects.list(f"{FOLDER}/{self.name}")

    def _alive(self, entries: dict[str, Found], last: int) -> bool:
        return alive(self.objects, self.name, entries, last, self.seconds)

    def _keep(self) -> None:
        while not self._stop.wait(self.seconds / 3):
            try:
                if not self.renew():
                    return
            except TriviumError:
                continue  # away for a moment: `held` says when that was too long


def alive(objects: Objects, name: str, entries: dict[str, Found], last: int, seconds: float) -> bool:
    """Whether somebody holds the lease with the highest number, going by a listing of `leases/NAME`. `seconds` is the term of
    one that does not say it."""
    made = f"{FOLDER}/{name}/{last:08d}"
    beats = [found for one, found in entries.items() if one.startswith(f"{made}.")]
    if any(beat.size == 0 for beat in beats):
        return False
    probe = f"{FOLDER}/{name}/now.{secrets.token_hex(16)}"
    objects.write(probe, BEAT)
    try:
        now = objects.list(f"{FOLDER}/{name}")[probe].written
    finally:
        objects.delete([probe])
    try:
        term = float(json.loads(objects.read(made) or b"{}").get("seconds", seconds))
    except (ValueError, TypeError, AttributeError):
        term = seconds
    latest = max(found.written for found in (*beats, entries[made]))
    return (now - latest).total_seconds() <= term + GRAIN


@contextmanager
def holding(objects: Objects, name: str, on_wait: Callable[[], None], seconds: float) -> Iterator[Lease]:
    """The lease `name`, held. Waits for whoever has it, and for whoever deletes objects now."""
    lease = Lease(objects, name, seconds)
    try:
        lease.acquire(on_wait)
        yield lease
    finally:
        lease.release()


def wait_for_sweep(objects: Objects, on_wait: Callable[[], None], seconds: float) -> None:
    """Waits until nobody deletes. To be called with a lease in hand: whoever begins to delete after that sees it and does not."""
    told = False
    while SWEEP in running(objects, seconds, only=SWEEP):
        if not told:
            on_wait()
        told = True
        time.sleep(min(1.0, seconds / 10))


def running(objects: Objects, seconds: float, only: str = "") -> list[str]:
    """Names of the leases that somebody holds now."""
    by_name: dict[str, dict[str, Found]] = {}
    for entry, found in objects.list(f"{FOLDER}/{only}" if only else FOLDER).items():
        by_name.setdefault(entry.split("/")[1], {})[entry] = found
    return [
        name
        for name, entries in by_name.items()
        if (last := _last(entries)) and alive(objects, name, entries, last, seconds)
    ]


def _number(entry: str) -> int:
    """0 for what is no lease."""
    digits = entry.rpartition("/")[2].partition(".")[0]
    return int(digits) if digits.isdecimal() else 0


def _last(entries: dict[str, Found]) -> int:
    """The highest number of a lease (not of a beat alone)."""
    return max((_number(entry) for entry in entries if "." not in entry.rpartition("/")[2]), default=0)
