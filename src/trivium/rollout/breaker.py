"""When an arm is not asked: after failures in a row it rests, then one request tries it. Pure: the time is an argument."""

from __future__ import annotations

from dataclasses import dataclass

FAILURES = 5
"""Attempts in a row that fail before an arm rests. Attempts are counted, not requests: a retry is one more."""
REST = 1.0
"""Seconds of the first rest; each trial that fails doubles it."""
LONGEST = 30.0


@dataclass
class Breaker:
    """Closed: everybody may ask. Open: nobody. Half open: one trial at a time."""

    failures: int = 0
    until: float = 0.0
    """When the rest ends."""
    rest: float = REST
    trying: bool = False

    @property
    def closed(self) -> bool:
        return self.failures < FAILURES

    def ask(self, now: float) -> bool:
        """Whether to try the arm now. Who is told yes must report `succeeded`, `failed` or `gave_up`."""
        if self.closed:
            return True
        if self.trying or now < self.until:
            return False
        self.trying = True
        return True

    def succeeded(self) -> None:
        self.failures, self.rest, self.trying = 0, REST, False

    def failed(self, now: float) -> None:
        if not self.closed and not self.trying:
            return  # an attempt from before it opened
        self.rest = min(LONGEST, 2 * self.rest) if self.trying else REST
        self.failures, self.trying = self.failures + 1, False
        self.until = now + self.rest

    def gave_up(self) -> None:
        """The attempt ended without a word on the arm: its client went away."""
        self.trying = False
