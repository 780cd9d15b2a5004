"""Measures replies away from the traffic: in a process of its own, which may die without taking anything along."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

from trivium.children import follow
from trivium.rollout.log import LATER
from trivium.rollout.plan import RolloutPlan
from trivium.rollout.replies import Limits, Seen, measure
from trivium.rollout.texts import reply_of

log = logging.getLogger("trivium.rollout")


class Work(NamedTuple):
    """A reply, the candidate's answer to the copy of its request (in a shadow stage), and whether the words are wanted."""

    seen: Seen
    mirror: Seen | None
    keep: bool


@dataclass
class Measuring:
    """`aside`: in another process; otherwise in a thread."""

    plan: RolloutPlan
    aside: bool = False
    _pool: ProcessPoolExecutor | None = None

    async def __call__(self, work: Sequence[Work]) -> list[dict[str, Any]]:
        """For each reply what its event gains. A reply that could not be measured has no metrics, and says so. Without work,
        waits until the process is there."""
        watched = frozenset(guardrail.metric for guardrail in self.plan.guardrails.values()) - {*LATER}
        limits = Limits(self.plan.slow_after, self.plan.slow_start_after, watched)
        if self.aside and self._pool is None:
            self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=begin)
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._pool, measure_all, list(work), limits
            )
        except Exception:
            log.exception("%d replies could not be measured", len(work))
            self.close()
            return [{"metrics": {}, "unmeasured": True} for _ in work]

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None


def begin() -> None:
    """The process ends with the router, however that ends, and leaves Ctrl-C and SIGTERM (sent to the whole group) to it."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    follow()


def measure_all(work: list[Work], limits: Limits) -> list[dict[str, Any]]:
    found = []
    for seen, mirror, keep in work:
        metrics, why = measure(seen, limits)
        gained: dict[str, Any] = {"metrics": metrics} | ({"why": why} if why else {})
        if mirror is not None:
            copy, failed = measure(mirror, limits)
            gained = {"metrics": copy, "stable": metrics} | ({"why": failed} if failed else {})
        if keep:
            gained |= {"reply": reply_of(seen), "copy": mirror and reply_of(mirror)}
        found.append(gained)
    return found
