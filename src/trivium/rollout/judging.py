"""Asks a judge about a sample of the replies, away from the traffic: in a process of its own, which may be slow or die.

Which replies is a hash of the request's name, so that it depends on nothing that an arm does. What the judge cannot tell stays
undecided; nothing is asked twice, and what waits when the router ends is never asked.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from trivium.errors import RecipeError, TriviumError
from trivium.rollout.assign import position
from trivium.rollout.entries import Exchange
from trivium.rollout.log import Event
from trivium.rollout.measuring import begin

log = logging.getLogger("trivium.rollout")
Pair = tuple[str, str]
"""What was asked, and the reply."""
Scorer = Callable[[Sequence[Pair]], list[float | None]]
MOST = 16
"""Replies that the judge is asked about at once."""
BACKLOG = 1000
"""Replies that may wait for it; more are not sampled, and counted."""


@dataclass
class Judging:
    """`opened`: gives the scorer; another process can find it. `aside`: in such a process; otherwise in a thread."""

    opened: Callable[[], Scorer]
    share: float
    aside: bool = False
    unasked: int = 0
    """Replies that were to be judged, and found no room."""
    _waiting: list[tuple[Event, list[Pair]]] = field(default_factory=list)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _pool: ProcessPoolExecutor | None = None
    _task: asyncio.Task[None] | None = None
    _name: int = field(default_factory=itertools.count().__next__)

    def samples(self, request: str) -> bool:
        return position("judge", request) < self.share

    async def start(self, told: Callable[[Event], None]) -> None:
        """From here on `told` hears what the judge says: events `judged`. RecipeError where it cannot be opened."""
        why = await self._run(_open, self._name, self.opened)
        if why is not None:
            raise RecipeError(
                f"the judge cannot be asked: {why}", where="judge", fix="mend the plan's `judge`"
            )

        self._task = asyncio.create_task(self._ask(told))

    def take(self, exchange: Exchange) -> None:
        """Puts a measured reply before the judge, if it is one of the sample and has words; then its event says so. Of a shadow
        stage, both replies."""
        event, seen, gained = exchange.event, exchange.seen, exchange.gained
        mirrored = exchange.mirror is not None
        replies = [gained.get("copy"), gained.get("reply")] if mirrored else [gained.get("reply")]
        if seen is None or None in replies or not self.samples(event["id"]):
            return
        if not mirrored and event.get("shadow"):
            return  # in a shadow stage only pairs are evidence
        if len(self._waiting) >= BACKLOG:
            self.unasked += 1
            return
        known = {str(name): value for name, value in event.items() if name in ("id", "unit", "arm", "share")}
        self._waiting.append((known, [(seen.request, str(reply)) for reply in replies]))
        gained["sampled"] = True
        self._wake.set()

    async def _ask(self, told: Callable[[Event], None]) -> None:
        while True:
            for event in await self._said():
                told(event)

    async def _said(self) -> list[Event]:
        await self._wake.wait()
        batch, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
        if not self._waiting:
            self._wake.clear()
        pairs = [pair for _, asked in batch for pair in asked]
        try:
            scores = await self._run(_scores, self._name, self.opened, pairs)
        except Exception:
            log.exception("the judge failed over %d replies", len(pairs))
            self._end()
            scores = [None] * len(pairs)
        found, at = [], 0
        for event, asked in batch:
            of = scores[at : at + len(asked)]
            at += len(asked)
            found.append(
                {**event, "event": "judged", "value": of[0]} | ({"stable": of[1]} if len(of) > 1 else {})
            )
        return found

    async def _run(self, work: Callable[..., Any], *given: Any) -> Any:
        if self.aside and self._pool is None:
            self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=begin)
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *given)

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
        self._end()

    def _end(self) -> None:
        if self._pool is not None:
            for process in list((self._pool._processes or {}).values()):
                process.kill()  # it may wait for a server for minutes
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None


_scorers: dict[int, Scorer] = {}
"""Of this process, by the name of who asks."""


def _open(name: int, opened: Callable[[], Scorer]) -> str | None:
    try:
        _scorers[name] = opened()
    except TriviumError as error:
        return str(error)
    return None


def _scores(name: int, opened: Callable[[], Scorer], pairs: list[Pair]) -> list[float | None]:
    """An empty reply is worth nothing, whatever a judge would say of it."""
    if name not in _scorers:
        _scorers[name] = opened()
    worded = [pair for pair in pairs if pair[1].strip()]
    scores = iter(_scorers[name](worded) if worded else [])
    return [next(scores) if pair[1].strip() else 0.0 for pair in pairs]
