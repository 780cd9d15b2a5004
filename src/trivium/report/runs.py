"""What a run's events.jsonl tells: its stages, their curves, samples and messages. Read again, it goes on where it was.

Nothing is kept beside the file: whoever shows a run (the terminal, the web app) reads it from here and from the artifacts.
"""

from __future__ import annotations

import threading
from array import array
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from trivium.report.steps import Floats, Steps, is_number, parsed, read, seconds

EVENTS = "events.jsonl"
WAITING, RUNNING, DONE, CACHED, FAILED = "waiting", "running", "done", "cached", "failed"
TAIL = 65_536
"""Bytes at the end of a log that are read to say in what state a run is."""
SILENT = 180.0
"""Seconds without an event after which a run that has not ended is taken to have been killed."""
MESSAGES = 500
PIECES, PIECE = 64, 8_192
"""Pieces of a long log that a first look reads, and bytes of each: some thousands of steps, more than a chart has points."""
NOT_CURVES = {"step", "steps", "eta_s", "time"}


@dataclass
class Series:
    """A metric over training: three columns of one length."""

    steps: array[float] = field(default_factory=lambda: array("d"))
    times: array[float] = field(default_factory=lambda: array("d"))
    """Seconds since the epoch."""
    values: array[float] = field(default_factory=lambda: array("d"))

    def add(self, steps: Floats, times: Floats, values: Floats) -> None:
        """More of it, (n,) each; values that are not known are left out."""
        known = ~np.isnan(values)
        for column, more in ((self.steps, steps), (self.times, times), (self.values, values)):
            column.frombytes(more[known].tobytes())

    def cut(self, step: float) -> None:
        """Forgets what came after `step`: a resumed stage does those steps again."""
        keep = len(self.steps)
        while keep and self.steps[keep - 1] > step:
            keep -= 1
        for column in (self.steps, self.times, self.values):
            del column[keep:]


@dataclass
class Stage:
    """One stage of a run, as far as the log goes."""

    name: str
    kind: str = ""
    status: str = WAITING
    fingerprint: str = ""
    inputs: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    started: float | None = None
    seconds: float | None = None
    error: str = ""
    progress: str = ""
    tokens_per_step: float | None = None
    flops_per_step: float | None = None
    curves: dict[str, Series] = field(default_factory=dict)
    """Metric -> its course; held-out ones are called `held-out …`."""
    samples: list[dict[str, Any]] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    """What the recipe says of it."""
    step: int = 0
    steps: int = 0
    left: float | None = None
    """Seconds that training will go on for."""


class RunLog:
    """A run's log, read as far as it goes; `refresh` reads what was added since."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = folder.name
        self._reading = threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self.read = 0
        self.partly = False
        """Whether only pieces of it were read."""
        self.stages: dict[str, Stage] = {}
        self.messages: deque[dict[str, Any]] = deque(maxlen=MESSAGES)
        self.last: float | None = None
        self.ended = False
        self.unread = 0
        """Lines that are no events: cut by a kill or a full disk."""

    def refresh(self) -> bool:
        """Reads what was added. Whether there was anything. Two pages may ask at once."""
        with self._reading:
            return self._refresh(self.folder / EVENTS)

    def _refresh(self, file: Path) -> bool:
        try:
            size = file.stat().st_size
        except FileNotFoundError:
            return False
        if self.partly:  # who draws meanwhile sees the pieces
            whole = RunLog(self.folder)
            whole._refresh(file)
            vars(self).update(vars(whole) | {"_reading": self._reading})
            return True
        if size < self.read:  # another file now
            self._forget()
        if size == self.read:
            return False
        with file.open("rb") as stream:
            stream.seek(self.read)
            data = stream.read()
        end = data.rfind(b"\n") + 1
        self.read += end
        self._tell(data[:end])
        return end > 0

    def look(self) -> None:
        """Reads of a long log what a first look needs: its beginning, its end and pieces between them, evenly spread. `refresh`
        reads it from its start then."""
        with self._reading:
            file = self.folder / EVENTS
            size = file.stat().st_size
            if self.read or self.partly or size < 2 * (TAIL + PIECES * PIECE):
                return
            with file.open("rb") as stream:
                found = stream.read(TAIL).rpartition(b"\n")[0] + b"\n"
                for place in np.linspace(TAIL, size - TAIL, PIECES + 1).astype(int).tolist():
                    stream.seek(place)
                    piece = stream.read(PIECE if place < size - TAIL else TAIL)
                    found += piece[piece.find(b"\n") + 1 : piece.rfind(b"\n") + 1]
            self.partly = True
            self._tell(found)

    def _tell(self, data: bytes) -> None:
        steps, others, count = read(data)
        told = 0
        for before, line in others:  # in the order of the log
            self._take_steps(steps, told, before)
            told = before
            event = parsed(line)
            if event is None:
                self.unread += bool(line.strip())
            else:
                self._take(event)
        self._take_steps(steps, told, count)

    def _take(self, event: dict[str, Any]) -> None:
        time = seconds(event)
        self.last = time or self.last
        kind, name = event["event"], event.get("stage")
        if kind == "run_start":
            graph = event.get("graph", {})
            before = self.stages
            self.ended = False
            self.stages = {stage: before.get(stage) or Stage(stage) for stage in event["stages"]}
            for stage in self.stages.values():
                stage.status, stage.error, stage.progress = WAITING, "", ""
                stage.kind = graph.get(stage.name, {}).get("kind", stage.kind)
                stage.inputs = tuple(graph.get(stage.name, {}).get("inputs", stage.inputs))
                stage.config = graph.get(stage.name, {}).get("config", stage.config)
            return
        if kind == "run_end":
            self.ended = True
            return
        if not isinstance(name, str):
            return
        stage = self.stages.setdefault(name, Stage(name))
        taken = getattr(self, f"_take_{kind}", None)
        if taken is not None:
            taken(stage, event)

    def _take_cached(self, stage: Stage, event: dict[str, Any]) -> None:
        stage.status, stage.kind, stage.fingerprint = CACHED, event["kind"], event["fingerprint"]

    def _take_stage_start(self, stage: Stage, event: dict[str, Any]) -> None:
        stage.status, stage.kind, stage.fingerprint = RUNNING, event["kind"], event["fingerprint"]
        stage.reasons, stage.started = tuple(event.get("reasons", ())), seconds(event)
        stage.seconds = None
        if not event.get("resumes"):
            stage.curves, stage.samples, stage.step, stage.steps = {}, [], 0, 0

    def _take_stage_end(self, stage: Stage, event: dict[str, Any]) -> None:
        stage.status, stage.seconds, stage.left = DONE, event["seconds"], None
        stage.metrics = event.get("metrics") or {}

    def _take_stage_failed(self, stage: Stage, event: dict[str, Any]) -> None:
        stage.status, stage.error, stage.left = FAILED, str(event.get("error", "")), None
        self._take_message(stage, {**event, "message": event.get("error", "")})

    def _take_phase(self, stage: Stage, event: dict[str, Any]) -> None:
        stage.tokens_per_step, stage.steps = event.get("tokens_per_step"), int(event.get("steps") or 0)
        stage.flops_per_step = event.get("flops_per_step")

    def _take_steps(self, steps: Steps, start: int, stop: int) -> None:
        """What the lines from `start` to `stop`, of those that are to be steps, tell."""
        first, last = np.searchsorted(steps.line, (start, stop))
        self.unread += stop - start - int(last - first)
        of = steps.stage[first:last]
        for nth in np.unique(of):
            rows = slice(first, last) if (of == nth).all() else first + np.flatnonzero(of == nth)
            name = steps.stages[nth]
            self._take_own_steps(self.stages.setdefault(name, Stage(name)), steps.part(rows))

    def _take_own_steps(self, stage: Stage, found: dict[str, Floats]) -> None:
        """A step that is told again was made again after a kill, and so were those behind it: what counts is the last time."""
        steps, times = found["step"], np.nan_to_num(found["time"])
        later = np.minimum.accumulate(steps[::-1])[::-1]
        kept = np.append(steps[:-1] < later[1:], True)
        if later[0] <= stage.step:
            for series in stage.curves.values():
                series.cut(later[0] - 1)
        last = {name: None if np.isnan(value[-1]) else value[-1].item() for name, value in found.items()}
        stage.step, stage.steps = int(steps[-1]), int(last.get("steps") or stage.steps)
        stage.left, self.last = last.get("eta_s"), last["time"] or self.last
        if stage.tokens_per_step and "seconds_per_step" in found:
            found["tokens_per_second"] = stage.tokens_per_step / found["seconds_per_step"]
        for metric, values in found.items():
            if metric not in NOT_CURVES and not np.isnan(values).all():  # it may be another stage's
                stage.curves.setdefault(metric, Series()).add(steps[kept], times[kept], values[kept])

    def _take_validation(self, stage: Stage, event: dict[str, Any]) -> None:
        time = seconds(event) or 0.0
        for metric, value in event.items():
            if metric not in NOT_CURVES and is_number(value):
                self._held_out(stage, f"held-out {metric}", time, value)
        for source, found in (event.get("sources") or {}).items():
            self._held_out(stage, f"held-out loss of {source}", time, found["loss"])

    def _held_out(self, stage: Stage, metric: str, time: float, value: float) -> None:
        series = stage.curves.setdefault(metric, Series())
        series.cut(stage.step - 1)
        series.add(*(np.array([float(one)]) for one in (stage.step, time, value)))

    def _take_samples(self, stage: Stage, event: dict[str, Any]) -> None:
        stage.samples.append({"step": event.get("step"), "samples": event.get("samples", [])})

    def _take_progress(self, stage: Stage, event: dict[str, Any]) -> None:
        stage.progress = f"{event.get('what', '')} {event.get('done', '')} of {event.get('of', '')}"

    def _take_message(self, stage: Stage, event: dict[str, Any]) -> None:
        self.messages.append({**event, "stage": stage.name})

    _take_warning = _take_message

    @property
    def state(self) -> str:
        """done, failed, running; or killed, where nothing was said for a while."""
        return _state(self.ended, any(s.status == FAILED for s in self.stages.values()), self.last)


@dataclass(frozen=True)
class Glance:
    """A run, as its folder's links and the end of its log say: what a list of hundreds of runs shows."""

    name: str
    state: str
    """done, failed, running, killed."""
    stage: str
    """The stage that the log speaks of last."""
    step: int
    steps: int
    loss: float | None
    left: float | None
    made: int
    """Stages whose artifacts are there."""
    last: float | None
    """When the log was last written to, seconds since the epoch."""


def glance(folder: Path) -> Glance:
    """The state of a run, from the last TAIL bytes of its log."""
    file = folder / EVENTS
    with file.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(0, size - TAIL))
        lines = stream.read().splitlines()
    last: dict[str, Any] = {}
    step: dict[str, Any] = {}
    stage = ""
    for line in reversed(lines):  # from the end, until all is known: hundreds of runs are looked at
        event = parsed(line)
        if event is None:
            continue
        last, stage = last or event, stage or str(event.get("stage") or "")
        if event["event"] == "step":
            step = event
            break
    moment = seconds(last)
    current = step if step.get("stage") == stage and last.get("event") != "run_end" else {}
    return Glance(
        folder.name,
        _state(last.get("event") == "run_end", last.get("event") == "stage_failed", moment),
        stage,
        int(current.get("step") or 0),
        int(current.get("steps") or 0),
        step.get("loss"),
        current.get("eta_s"),
        sum(link.is_symlink() for link in folder.iterdir()),
        moment,
    )


def runs(folder: Path) -> list[Path]:
    """The folders of runs, the one written to last first."""
    found = [path.parent for path in folder.glob(f"*/{EVENTS}")]
    return sorted(found, key=lambda run: (run / EVENTS).stat().st_mtime, reverse=True)


def _state(ended: bool, failed: bool, last: float | None) -> str:
    if ended:
        return "done"
    if failed:
        return "failed"
    silent = last is None or datetime.now().timestamp() - last > SILENT
    return "killed" if silent else "running"


def differences(left: Any, right: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(field, left, right) of what differs between two configurations, fields within fields by their path."""
    if isinstance(left, dict) and isinstance(right, dict):
        for key in dict.fromkeys([*left, *right]):
            yield from differences(left.get(key), right.get(key), f"{path}.{key}" if path else str(key))
    elif left != right:
        yield path, left, right
