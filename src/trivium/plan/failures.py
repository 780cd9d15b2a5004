"""What interruptions cost a long run: how often a checkpoint should be written, what deviating costs, and a run played through.

Young 1974 and Daly 2006: with a save that takes C and a mean time M between failures of the whole job, writing every sqrt(2 C M)
loses least; C / W of the time goes to saving, W / 2M to work done again, R / M to detecting and restarting. The played run
(`play`) is discrete events, and knows what the formula does not: failures in a save, and spare nodes that run out.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field, replace

from trivium.plan.bands import Band
from trivium.plan.doubts import doubts
from trivium.seeds import generator

HOUR = 3600.0
STORE = 0.12e9
"""Bytes a second that the storage takes for each device (Llama 3: 2 TB/s for 16,384; BLOOM: 57 GB/s for 384)."""
STATE = 12
"""Bytes of a checkpoint for each parameter: float32 weights and two moments (BLOOM wrote 13, OPT 9.6)."""
RESTART = Band(180.0, 600.0, 1800.0)
"""Seconds from a failure to the next step: noticed, replaced, started, loaded. Llama 3's figures leave at most 1,000."""


@dataclass(frozen=True)
class Job:
    """A run that is interrupted. Seconds, but for `rate`: interruptions of one device in an hour."""

    devices: int
    rate: float
    save: float
    restart: float = RESTART.expected
    interval: float | None = None
    """Of work between saves; None: the best."""
    spares: int | None = None
    """Nodes that stand by; None: there is always one."""
    repair: float = 24 * HOUR
    """Until a node that failed can stand by again."""

    @property
    def between(self) -> float:
        """Mean seconds between interruptions."""
        return HOUR / (self.devices * self.rate)

    @property
    def every(self) -> float:
        """Seconds of work between saves."""
        return best(self.save, self.between) if self.interval is None else self.interval


def best(save: float, between: float) -> float:
    """Daly 2006, eq. 37: the interval that loses least, for saves shorter than twice the time between failures."""
    if save >= 2 * between:
        return between
    ratio = math.sqrt(save / (2 * between))
    return max(1.0, math.sqrt(2 * save * between) * (1 + ratio / 3 + ratio**2 / 9) - save)


def lost(job: Job) -> float:
    """Share of the wall clock that makes no lasting step, to first order. Nothing fails while nothing runs."""
    beside = (
        job.save / job.every + (job.every / 2 + job.restart) / job.between
    )  # seconds for each one of work
    return beside / (1 + beside)


def job_of(parameters: int, devices: int, rate: float | None = None) -> Job:
    """A run of a model of `parameters` on `devices`, that blocks while it writes."""
    expected = doubts()["failures"].band.expected if rate is None else rate
    return Job(devices, expected, max(1.0, STATE * parameters / (devices * STORE)))


def goodput(parameters: int, devices: int) -> Band:
    """Share of the wall clock that makes lasting steps, in a run of weeks: what runs reported, or less where so many devices fail
    more often than they did there."""
    reported, rates = doubts()["goodput"].band, doubts()["failures"].band

    def left(rate: float, restart: float) -> float:
        return max(0.01, 1 - lost(replace(job_of(parameters, devices, rate), restart=restart)))

    return Band(
        min(reported.low, left(rates.high, RESTART.expected)),
        min(reported.expected, left(rates.expected, RESTART.expected)),
        min(reported.high, left(rates.low, RESTART.low)),
    )


@dataclass(order=True)
class _Event:
    at: float
    what: str = field(compare=False)


@dataclass(frozen=True)
class Played:
    """What became of a run. Seconds."""

    elapsed: float
    worked: float
    """In steps that lasted."""
    again: float
    """In steps that were lost and done again."""
    saving: float
    down: float
    """Noticing, restarting, and waiting for a node."""
    interruptions: int
    waits: int
    """Restarts that had to wait for a repair."""

    @property
    def effective(self) -> float:
        return self.worked / self.elapsed


def play(job: Job, work: float, seed: int = 0) -> Played:
    """Plays `work` seconds of steps through, event by event: a save is due, a node fails, a node comes back from repair."""
    random = generator(seed, "failures", job.devices)
    now = worked = kept = saving = down = again = 0.0
    interruptions = waits = 0
    standby = math.inf if job.spares is None else float(job.spares)
    events = [_Event(float(random.exponential(job.between)), "failure")]
    while kept < work:
        step = min(job.every, work - kept)
        ends = now + step + job.save
        while events[0].at < ends and events[0].what == "repaired":
            heapq.heappop(events)
            standby += 1
        if events[0].at >= ends:  # the work is done and lies in a checkpoint
            now, worked, kept, saving = ends, worked + step, kept + step, saving + job.save
            continue
        failure = heapq.heappop(events).at
        interruptions += 1
        again += min(failure - now, step)
        saving += max(0.0, failure - now - step)
        back = failure + job.restart
        if job.spares is not None:
            heapq.heappush(events, _Event(failure + job.repair, "repaired"))
            while standby < 1:  # nothing fails while nothing runs
                waits += 1
                freed = heapq.heappop(events)
                standby += 1
                back = max(back, freed.at + job.restart)
            standby -= 1
        down += back - failure
        now = back
        heapq.heappush(events, _Event(back + float(random.exponential(job.between)), "failure"))
    return Played(now, worked, again, saving, down, interruptions, waits)


def said(job: Job, hours: float) -> list[str]:
    """In words: how often it is interrupted, when to save, what it costs to save more seldom or more often."""
    usual = lost(job)
    lines = [
        f"interrupted every {_time(job.between)} ({job.rate:.2g} for a device and hour), "
        f"about {hours * HOUR / job.between:,.0f} times",
        f"a save blocks for {_time(job.save)}; saving every {_time(job.every)} loses least: {usual:.1%} of the time, "
        f"with restarts of {_time(job.restart)}, which alone cost {job.restart / (job.restart + job.between):.1%}",
    ]
    for factor in (0.25, 4.0):
        other = replace(job, interval=job.every * factor)
        lines.append(f"every {_time(other.every)} instead loses {lost(other):.1%}")
    return lines


def _time(seconds: float) -> str:
    for unit, size in (("d", 24 * HOUR), ("h", HOUR), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
