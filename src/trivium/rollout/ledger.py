"""The one owner of a rollout's state: takes events, writes them in batches, decides, and says which share holds.

A rollback holds from the moment it is decided; a promotion only once it is on the disk. So whatever a kill takes away, the
candidate never keeps a share that the log does not give it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trivium.errors import ArtifactError
from trivium.rollout.assign import Split
from trivium.rollout.entries import (
    Answer,
    Exchange,
    Judged,
    Order,
    Refused,
    Vote,
    done_already,
    due,
    pending,
    settle,
    today,
)
from trivium.rollout.history import History, folded
from trivium.rollout.journal import Journal, journal_at
from trivium.rollout.judging import Judging
from trivium.rollout.log import IDLE, Event, State, said_in
from trivium.rollout.measuring import Measuring, Work
from trivium.rollout.plan import RolloutPlan
from trivium.rollout.policy import Decision, decide
from trivium.rollout.replies import Seen
from trivium.rollout.simulate import verdict
from trivium.rollout.texts import Texts, candidate_name

log = logging.getLogger("trivium.rollout")
BATCH = 0.1  # seconds between two writes
MOST, BACKLOG = 500, 10_000
"""Replies that are measured at once, and that may wait for it; more are not measured, and their events say so."""
ELSEWHERE = 2.0
"""Seconds that feedback waits for a request that another router may have answered."""
WAITING = 100_000
"""Events that are kept while the log cannot be written; more are lost, and counted."""


@dataclass
class Ledger:
    """State, log and decisions of one router. `start` it in a running loop."""

    path: Path | str
    """Of the log: a file, or a database's address where several routers share a rollout."""
    plan: RolloutPlan
    aside: bool = False
    """Measure replies in another process."""
    texts: Texts | None = None
    """Where words and replies are kept, of users who consent."""
    judging: Judging | None = None
    """Who gives a sample of the replies its score."""
    clock: Callable[[], float] = time.monotonic
    state: State = field(default_factory=State)
    history: History = field(default_factory=History)
    stuck: str | None = None
    """Why the log cannot be written: nothing is promoted meanwhile."""
    lost: int = 0
    """Events that were never written."""
    split: Split = field(default_factory=Split)
    """How units fall to the arms, now: what the router reads for every request."""
    underway: dict[str, list[Vote]] = field(default_factory=dict)
    """Requests that have not been written yet, each with the feedback that waits for it."""
    _queue: list[Exchange | Judged | Vote | Order] = field(default_factory=list)
    _unwritten: list[Event] = field(default_factory=list)
    _waiters: list[tuple[asyncio.Future[Any], Any]] = field(default_factory=list)
    """Who is told what once all is on the disk."""
    _killed: set[str] = field(default_factory=set)
    """Candidates that a person rolled back, though the log may not have it yet."""
    _offset: float = 0.0
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _stopping: bool = False
    _unmeasured: list[Exchange] = field(default_factory=list)
    _to_measure: asyncio.Event = field(default_factory=asyncio.Event)
    _taken: list[Exchange | Judged | Vote | Order] = field(default_factory=list)
    """What this turn is about."""
    _stale: bool = False
    """The state has seen what a shared log may not have: it is read again."""
    journal: Journal = field(init=False)
    _measuring: Measuring = field(init=False)

    def __post_init__(self) -> None:
        self.journal = journal_at(self.path)
        self._measuring = Measuring(self.plan, self.aside)

    def open(self, candidate: Mapping[str, Any], force: bool) -> None:
        """Goes on with the log, or begins it. `force`: the candidate's gates did not pass, or have not been seen.

        ArtifactError for a damaged log, one that cannot be written, one that another router writes, and one of another rollout
        that has not ended.
        """
        try:
            self.journal.open()
            self._open(candidate, force)
        except OSError as error:
            self.journal.close()
            alone = "name another --log (lines of JSON end in .jsonl)"
            fix = "start the database" if self.journal.shared else alone
            raise ArtifactError(
                f"the log cannot be written: {error}", where=self.journal.where, fix=fix
            ) from None
        except BaseException:
            self.journal.close()
            raise

    def _open(self, candidate: Mapping[str, Any], force: bool) -> None:
        if self.texts is not None:
            self.texts.open()
        self.state, self.history = folded(self.journal.read())
        self._offset = self.state.now - self.clock()
        self._take_in(self.journal.enter())
        same = self.state.plan == self.plan and dict(self.state.candidate) == dict(candidate)
        if self.state.under_way and not same:
            raise ArtifactError(
                "the log is of another rollout, which has not ended",
                where=self.journal.where,
                fix="go on with its plan and its candidate, roll it back first, or name another --log",
            )
        if self.state.plan is None or not same:
            plan = self.plan.model_dump(mode="json")
            started = {"t": self.now, "event": "started", "at": today(), "plan": plan}
            self._apply(started | {"candidate": dict(candidate), "force": force})
        self.journal.write(self._unwritten)
        self._unwritten.clear()
        self.split = self.state.split

    def _take_in(self, events: list[Event]) -> None:
        """What others have written; this router's time is never behind theirs."""
        for event in events:
            self.state.apply(event)
            self.history.note(self.state, event)
        self._offset = max(self._offset, self.state.now - self.clock())

    @property
    def now(self) -> float:
        """Seconds that routers have run on this log: clocks that jump do not move it, and a stop is no time."""
        return round(self._offset + self.clock(), 4)

    @property
    def share(self) -> float:
        """The share of the units that candidates answer, now."""
        return self.split.share

    async def start(self) -> None:
        """What measures is there before the first request is."""
        await self._measuring([])
        self._tasks = [asyncio.create_task(self._measure()), asyncio.create_task(self._run())]
        if self.judging is not None:
            await self.judging.start(self._said)

    async def stop(self) -> None:
        """Measures and writes what is left."""
        self._stopping = True
        if self.judging is not None:
            self.judging.close()
        self._wake.set()
        self._to_measure.set()
        await asyncio.gather(*self._tasks)
        await self._turn()
        self._measuring.close()
        self.journal.close()

    def begin(self, request: str) -> None:
        """A request is under way: feedback on it will wait for it."""
        self.underway[request] = []

    def ended(
        self, event: Event, seen: Seen, mirror: Seen | None = None, turns: list[dict[str, str]] | None = None
    ) -> None:
        """An exchange is over; what its bytes amount to is found out aside."""
        exchange = Exchange({"t": self.now, **event}, seen, mirror, turns if self.texts is not None else None)
        if len(self._unmeasured) < BACKLOG:
            self._unmeasured.append(exchange)
            self._to_measure.set()
        else:
            self._queue.append(exchange)

    async def feedback(self, said: Event, edit: str | None = None) -> str:
        """`unknown`, `unkept`, `again`, `capped`, or `joins` once it is on the disk. OSError where it could not be written.

        `said`: an event `feedback`, `choice` or `edit`, without its time; `edit`: the words of an edit.
        """
        told = Vote({"t": self.now, **said}, pending(), edit)
        self._queue.append(told)
        self._wake.set()
        return await told.told

    async def act(
        self, action: str, reason: str, who: str, stage: int | None = None, arm: str | None = None
    ) -> Answer:
        """A person's `promote`, `hold`, `roll back` or `resume`. `stage`: the one it is about, so that a promotion that is sent
        twice is one. `arm`: the candidate that is rolled back (None: all), or gets everything. Refused where it is not defined;
        OSError where it is done and could not be written.
        """
        if action == "roll back" and self.state.status != IDLE:
            self._killed |= {name for name in self.plan.candidates if arm in (None, name)}
            self.split = self.split.without(self._killed)  # before anything else
        asked = Order(action, reason, who, stage, arm, pending())
        self._queue.append(asked)
        self._wake.set()
        return await asked.told

    async def _run(self) -> None:
        while not self._stopping:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BATCH):
                    await self._wake.wait()
            self._wake.clear()
            try:
                await self._turn()
            except Exception:  # the router outlives a mistake here; the share stays what it was
                log.exception("a batch failed")

    async def _measure(self) -> None:
        """Beside the turns: rules that take long hold up neither verdicts nor people."""
        while self._unmeasured or not self._stopping:
            await self._to_measure.wait()
            batch, self._unmeasured = self._unmeasured[:MOST], self._unmeasured[MOST:]
            if not self._unmeasured and not self._stopping:
                self._to_measure.clear()
            judges = self.judging.samples if self.judging is not None else lambda request: False
            work = [(each, each.turns is not None or judges(each.event["id"])) for each in batch]
            found = await self._measuring(
                [Work(each.seen, each.mirror, keep) for each, keep in work if each.seen]
            )
            for each, gained in zip(batch, found, strict=True):
                each.gained = gained
                if self.judging is not None and self.state.under_way:
                    self.judging.take(each)
                gained.pop("copy", None)
                each.seen = each.mirror = None  # it may wait long for a database
            self._queue += batch
            await asyncio.sleep(0 if self._stopping else BATCH / 2)

    def _said(self, event: Event) -> None:
        """What a judge says of a reply."""
        self._queue.append(Judged(event | {"t": self.now}))

    async def _turn(self) -> None:
        """Takes what has come, decides, and writes."""
        if self.journal.shared and not await self._entered():
            return
        self._taken, self._queue = self._queue, []
        try:
            for entry in self._taken:
                if isinstance(entry, Exchange):
                    self._record(entry)
                elif isinstance(entry, Judged):
                    self._apply(entry.event)
                elif isinstance(entry, Vote):
                    self._tell(entry)
                else:
                    self._person(entry)
            self._pass_time()
            self._policy()
        except BaseException:
            self._stale = self.journal.shared
            self.journal.leave()
            raise
        await self._write()

    async def _entered(self) -> bool:
        """Takes this router's turn at a shared log. Where that cannot be had, all stays as it is, and who waits is told."""
        try:
            if self._stale:
                read = self.journal.read(again=True)
                self.state, self.history = await asyncio.to_thread(folded, read)
                self._stale = False
            self._take_in(await asyncio.to_thread(self.journal.enter))
        except OSError as error:
            self._cannot(error, [(entry.told, None) for entry in self._queue])
            self.lost += max(0, len(self._queue) - WAITING)
            del self._queue[WAITING:]
            return False
        if self.state.plan != self.plan:
            self.split, self.stuck = Split(), "another rollout has begun on this log"
            self.journal.leave()
            return False
        return True

    def _cannot(self, error: OSError, waiters: list[tuple[asyncio.Future[Any] | None, Any]]) -> None:
        if self.stuck is None:
            log.error("the log cannot be written (%s): routing goes on, nothing is promoted", error)
        self.stuck = error.strerror or str(error)
        for future, _ in waiters:
            if future is not None:
                settle(future, error)

    def _record(self, exchange: Exchange) -> None:
        reply, event = exchange.gained.pop("reply", None), exchange.event | exchange.gained
        written = self.journal.shared and self.state.fate(event["id"], "") != "unknown"
        if written and event["event"] == "request":
            return  # by a turn of which nobody knew how it had ended
        if reply and reply.strip() and self.texts is not None and exchange.turns is not None:
            self.texts.keep(event, candidate_name(self.state.known(event["arm"])), exchange.turns, reply)
        waiting = self.underway.pop(event["id"], [])
        if not self._apply(event):
            for told in waiting:
                settle(told.told, OSError(self.stuck or "the log is full"))
            return
        for told in waiting:
            self._tell(told)

    def _tell(self, told: Vote) -> None:
        """Written only if it joins, so that a thousand votes fill no disk."""
        event = told.event
        for request in (event["id"], event.get("over")):
            if request in self.underway:  # once that is written
                self.underway[request].append(told)
                return
        fate = self.state.fate(event["id"], said_in(event))
        if event["event"] == "choice" and self.state.fate(event["over"], "") == "unknown":
            fate = "unknown"
        if told.edit is not None and fate == "joins":
            fate = "unkept" if self.texts is None else self.texts.keep_edit(event, told.edit)
        if fate == "unknown" and self.journal.shared and self.now - event["t"] < ELSEWHERE:
            self._queue.append(told)
        elif fate in ("unknown", "capped", "unkept"):
            settle(told.told, fate)
        elif fate == "again" or self._apply(told.event):
            self._waiters.append((told.told, fate))
        else:
            settle(told.told, OSError(self.stuck or "the log is full"))

    def _person(self, asked: Order) -> None:
        try:
            again = done_already(self.state, asked.action, asked.stage, asked.arm)
        except Refused as refusal:
            settle(asked.told, refusal)
            return
        if not again:
            decision = Decision(asked.action, asked.reason, arm=asked.arm)
            self._apply(
                verdict(self.state, decision, asked.who) | {"t": self.now, "at": today()}, always=True
            )
        last = next((row for row in reversed(self.state.verdicts) if row["action"] == asked.action), None)
        self._waiters.append((asked.told, Answer(last, again)))

    def _pass_time(self) -> None:
        for event in due(self.state, self.now):
            self._apply(event, always=True)

    def _policy(self) -> None:
        decision = decide(self.state)
        if decision is None or (decision.action == "hold" and not decision.call):
            return
        if decision.action == "promote" and self.stuck is not None:
            return
        self._apply(verdict(self.state, decision) | {"at": today()}, always=True)
        log.warning("%s: %s", decision.action, decision.reason)
        if decision.action == "roll back":
            self.split = self.split.without({decision.arm} if decision.arm else self.plan.candidates)

    def _apply(self, event: Event, always: bool = False) -> bool:
        """Into the state and towards the disk: whatever the state has seen will be in the log, in this order."""
        if len(self._unwritten) >= WAITING and not always:
            self.lost += 1
            return False
        self.state.apply(event)
        self.history.note(self.state, event)
        self._unwritten.append(event)
        return True

    async def _write(self) -> None:
        waiters, self._waiters = self._waiters, []
        if self.texts is not None:
            await asyncio.to_thread(self.texts.write)
        if self._unwritten or self.journal.shared:
            lines = list(self._unwritten)
            try:
                await asyncio.to_thread(self.journal.write, lines)
            except OSError as error:
                self._cannot(error, [*waiters])
                if self.journal.shared:  # others may write before this is tried again
                    self._unwritten.clear()
                    self._queue, self._stale = self._taken + self._queue, True
                return
            del self._unwritten[: len(lines)]
        if self.stuck is not None:
            log.warning("the log can be written again; %d events were lost", self.lost)
        self.stuck = None
        self.split = self.state.split.without(self._killed)
        for future, result in waiters:
            settle(future, result)
