"""From the request that proves a breach to the verdict on the disk, by the clock, and what the candidate is asked after it."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from routed import CHAT, Arm, answers, event, events_of, good, plan_for, whole
from test_router_kills import Process

from trivium.rollout.log import State
from trivium.rollout.policy import decide

pytestmark = pytest.mark.slow
CLIENTS = 16
GUARDRAILS = {
    "empty": {"metric": "empty", "within": 0.05},
    "errors": {"metric": "error"},
    "slow": {"metric": "slow"},
}
EMPTY = answers(event(None, "stop") + b"data: [DONE]\n\n", content_type="text/event-stream")


@dataclass
class Traffic:
    """Clients that ask as soon as they are answered. Times are of `time.monotonic`, one clock for all processes here."""

    url: str
    began: dict[int, float] = field(default_factory=dict)
    """By the number of a request, which it carries as its user."""
    ended: dict[str, float] = field(default_factory=dict)
    """By the router's name for it: when its last byte was here."""
    stop: bool = False

    async def client(self, http: aiohttp.ClientSession) -> None:
        while not self.stop:
            number = len(self.began)
            self.began[number] = time.monotonic()
            body = {"user": str(number), "stream": number % 2 == 0, "messages": []}
            async with http.post(self.url + CHAT, json=body) as response:
                assert response.status == 200
                await response.read()
            self.ended[response.headers["x-trivium-request"]] = time.monotonic()


def written(log: Path) -> float:
    """When another process first finds the rollback in the log."""
    reader = sqlite3.connect(f"file:{log}?mode=ro", uri=True, timeout=5)
    query = "SELECT count(*) FROM rollout_events WHERE event LIKE '%\"roll back\"%'"
    end = time.monotonic() + 120
    while not reader.execute(query).fetchone()[0]:
        assert time.monotonic() < end
        time.sleep(0.005)
    return time.monotonic()


def proving(log: Path) -> str:
    """The request with which the evidence went past its limit."""
    state = State()
    for row in events_of(log):
        state.apply(row)
        decision = decide(state)
        if decision is not None and decision.action == "roll back":
            return str(row["id"])
    raise AssertionError("nothing was proven")


async def breach(folder: Path) -> tuple[float, float, int, int]:
    """Seconds from the proving request to the write, to the last request at the candidate; requests begun after the write, and
    how many of them the candidate saw."""
    turned, arrived = asyncio.Event(), {}

    async def turns_bad(request: Any, body: dict[str, Any]) -> Any:
        arrived[int(body["user"])] = time.monotonic()
        if not turned.is_set():
            return await good(request, body)
        return await (EMPTY if body["stream"] else answers(whole("")))(request, body)

    arms = Arm(), Arm(turns_bad)
    for arm in arms:
        await arm.start()
    plan = plan_for(*arms, stages=[{"share": 0.5, "min_units": 10**6}], guardrails=GUARDRAILS)
    router = Process(folder, plan)
    await router.start()
    try:
        traffic = Traffic(router.url)
        async with aiohttp.ClientSession() as http:
            clients = [asyncio.create_task(traffic.client(http)) for _ in range(CLIENTS)]
            while len(arrived) < 100:
                await asyncio.sleep(0.01)
            turned.set()
            wrote = await asyncio.to_thread(written, router.log)
            before = len(traffic.began)
            while len(traffic.began) < before + 500:
                await asyncio.sleep(0.01)
            traffic.stop = True
            await asyncio.gather(*clients)
    finally:
        router.kill()
        for arm in arms:
            await arm.stop()
    proof = traffic.ended[proving(router.log)]
    after = [number for number, began in traffic.began.items() if began > wrote]
    return wrote - proof, max(arrived.values()) - proof, len(after), len(arrived.keys() & set(after))


def test_a_breach_is_rolled_back_within_two_seconds(tmp_path: Path) -> None:
    """The middle one of three: one stall of a machine that others use says nothing of the router."""
    found = []
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        found.append(asyncio.run(breach(folder)))
    for write, last, after, reached in found:
        print(
            f"written after {write:.3f} s, the last request at the candidate after {last:.3f} s; {reached} of {after} later ones"
        )
        assert after >= 400 and reached == 0
    assert sorted(write for write, *_ in found)[1] < 2 and sorted(last for _, last, *_ in found)[1] < 2
