"""Three routers on one rollout, their log in a real PostgreSQL: kills, a database that goes away, one order of events."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from routed import CHAT, Arm, answers, plan_for, until, whole
from test_router_kills import Process

from trivium.errors import ArtifactError
from trivium.rollout import journal
from trivium.rollout.log import fold
from trivium.rollout.simulate import replay

PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PROGRAMS, reason="PostgreSQL is not installed"),
]


class Postgres:
    """A cluster of its own, reached through a socket in its folder. PostgreSQL refuses to be root."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin = folder, PROGRAMS[-1].parent
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres")
        self.run("initdb", "-D", str(folder / "data"), "-U", "trivium", "-A", "trust", "--no-sync")
        self.url = f"postgresql://trivium@/postgres?host={folder}"  # the socket has the usual number's name

    def run(self, program: str, *words: str) -> None:
        user = "postgres" if os.geteuid() == 0 else None
        subprocess.run(
            [str(self.bin / program), *words],
            user=user,
            check=True,
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            timeout=300,
        )

    def start(self) -> None:
        settings = f"-c listen_addresses='' -c unix_socket_directories={self.folder}"
        log = str(self.folder / "log.txt")
        self.run(
            "pg_ctl", "-D", str(self.folder / "data"), "-w", "-t", "240", "-l", log, "-o", settings, "start"
        )

    def stop(self, how: str = "immediate") -> None:
        self.run("pg_ctl", "-D", str(self.folder / "data"), "-w", "-t", "240", "-m", how, "stop")


@pytest.fixture
def database() -> Iterator[Postgres]:
    with tempfile.TemporaryDirectory(prefix="pg-") as name:  # a socket's path must be short
        server = Postgres(Path(name))
        server.start()
        try:
            yield server
        finally:
            with contextlib.suppress(subprocess.CalledProcessError):
                server.stop()


@contextlib.asynccontextmanager
async def three(
    folder: Path, place: str, **changes: Any
) -> AsyncIterator[tuple[Arm, Arm, list[Process], aiohttp.ClientSession]]:
    """Two arms, and three routers in front of them."""
    async with contextlib.AsyncExitStack() as stack:
        arms = Arm(), Arm()
        for arm in arms:
            await arm.start()
            stack.push_async_callback(arm.stop)
        routers = []
        for number in range(3):
            own = folder / str(number)
            own.mkdir()
            router = Process(own, plan_for(*arms, **changes))
            router.log = place
            routers.append(router)
            stack.callback(end, router)
        await asyncio.gather(*(router.start() for router in routers))
        yield *arms, routers, await stack.enter_async_context(aiohttp.ClientSession())


def end(router: Process) -> None:
    if router.process is not None and router.process.poll() is None:
        router.kill()


async def ask(http: aiohttp.ClientSession, router: Process, user: str) -> int:
    async with http.post(router.url + CHAT, json={"user": user, "messages": []}) as response:
        await response.read()
        return response.status


async def told(http: aiohttp.ClientSession, router: Process) -> dict[str, Any]:
    async with http.get(router.url + "/rollout/status") as response:
        return await response.json()


async def all_say(http: aiohttp.ClientSession, routers: list[Process], true: Any) -> None:
    async with asyncio.timeout(240):
        while not all([true(await told(http, router)) for router in routers]):
            await asyncio.sleep(0.2)


def test_three_routers_share_one_rollout_and_its_kills(tmp_path: Path, database: Postgres) -> None:
    """Six kills in turn; all users keep their arm; the breach that each sees a third of takes the candidate from all."""

    async def work() -> None:
        guardrails = {"empty": {"metric": "empty", "within": 0.1}}
        async with three(tmp_path, database.url, unit="user", guardrails=guardrails) as (
            _,
            candidate,
            routers,
            http,
        ):
            for kill in range(6):
                users = [f"user-{number}" for number in range(12)]
                assert {await ask(http, routers[n % 3], user) for n, user in enumerate(users)} == {200}
                routers[kill % 3].kill()
                await routers[kill % 3].start()
            async with http.post(
                f"{routers[0].url}/rollout/hold", json={"reason": "lunch", "who": "ann"}
            ) as response:
                assert response.status == 200
            await all_say(http, routers, lambda said: said["status"] == "held")
            async with http.post(
                f"{routers[1].url}/rollout/resume", json={"reason": "back", "who": "bob"}
            ) as response:
                assert response.status == 200
            candidate.handler = answers(whole(""))
            for number in range(90):
                await ask(http, routers[number % 3], f"other-{number}")
            await all_say(http, routers, lambda said: said["status"] == "rolled back" and said["share"] == 0)
            reached = len(candidate.seen)
            for number in range(30):
                await ask(http, routers[number % 3], f"third-{number}")
            assert len(candidate.seen) == reached

    asyncio.run(work())
    events = list(journal.events(database.url))
    rows = [event for event, _ in replay(events)]
    assert [row["action"] for row in rows] == ["hold", "resume", "roll back"]
    arms: dict[str, set[str]] = {}
    for event in events:
        if event["event"] == "request" and event["share"] > 0:
            arms.setdefault(event["unit"], set()).add(event.get("instead_of", event["arm"]))
    assert len(arms) >= 12 and all(len(found) == 1 for found in arms.values())
    assert sum(event["event"] == "started" for event in events) == 1


def test_a_database_that_goes_away_promotes_nothing(tmp_path: Path, database: Postgres) -> None:
    """Last known weights while it is away; what came meanwhile is written once it is back, once; then the stage is left."""

    async def work() -> int:
        stages = [{"share": 0.5, "min_units": 20, "decide": False}, {"share": 0.6}]
        async with three(tmp_path, database.url, unit="user", stages=stages) as (_, candidate, routers, http):
            for number in range(9):
                assert await ask(http, routers[number % 3], f"user-{number}") == 200
            await asyncio.to_thread(database.stop)
            asked, away = 0, time.monotonic()
            while time.monotonic() - away < 60:  # a minute
                assert await ask(http, routers[asked % 3], f"user-{asked}") == 200
                asked += 1
                await asyncio.sleep(0.2)
            await all_say(http, routers, lambda said: said["stuck"])
            assert [(await told(http, router))["share"] for router in routers] == [0.5] * 3
            assert candidate.seen
            async with http.post(
                f"{routers[0].url}/rollout/promote", json={"reason": "x", "who": "ann", "stage": 0}
            ) as response:
                assert response.status == 503
            await asyncio.to_thread(database.start)
            await all_say(http, routers, lambda said: said["stuck"] is None and said["share"] == 0.6)

            return 9 + asked

    sent = asyncio.run(work())
    events = list(journal.events(database.url))
    requests = [event["id"] for event in events if event["event"] == "request"]
    assert len(requests) == len(set(requests)) == sent
    assert [event["action"] for event, _ in replay(events)] == ["promote"]
    assert fold(events).stage == 1


def test_a_router_for_another_plan_is_turned_away(tmp_path: Path, database: Postgres) -> None:
    async def work() -> None:
        async with three(tmp_path, database.url) as (stable, candidate, _, _):
            other = Process(tmp_path, plan_for(stable, candidate, name="other"))
            other.log = database.url
            try:
                with pytest.raises(AssertionError, match="another rollout"):
                    await other.start()
            finally:
                end(other)

    asyncio.run(work())
    with pytest.raises(ArtifactError, match="PostgreSQL only"):
        journal.journal_at("mysql://somebody@nowhere/name")


def test_feedback_finds_the_request_that_another_router_answered(tmp_path: Path, database: Postgres) -> None:
    async def work() -> None:
        async with three(tmp_path, database.url, unit="user") as (_, _, routers, http):
            body = {"user": "ann", "messages": []}
            async with http.post(routers[0].url + CHAT, json=body) as response:
                name = response.headers["x-trivium-request"]
            await until(lambda: any(e.get("id") == name for e in journal.events(database.url)))
            said = {"id": name, "metric": "thumbs", "value": 1}
            for router in routers[1:]:
                async with http.post(f"{router.url}/v1/feedback", json=said) as response:
                    assert response.status == 200
            async with http.post(f"{routers[2].url}/v1/feedback", json={**said, "id": "0" * 24}) as response:
                assert response.status == 404

    asyncio.run(work())
    assert sum(event["event"] == "feedback" for event in journal.events(database.url)) == 1
