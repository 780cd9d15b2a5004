"""The router as its user starts it: kills of it and of the candidate under traffic, and the commands of people."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from routed import CHAT, STREAM, Arm, events_of, plan_for, until, whole

from trivium.rollout import journal
from trivium.rollout.log import fold
from trivium.rollout.simulate import replay

pytestmark = pytest.mark.slow
KILLS = 50


class Process:
    """`trivium rollout serve` on a port of its own."""

    def __init__(self, folder: Path, plan: Any) -> None:
        self.plan, self.log, self.out = folder / "plan.yaml", folder / "log.db", folder / "out.txt"
        self.plan.write_text(plan.model_dump_json())
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        words = [
            "rollout",
            "serve",
            str(self.plan),
            "--log",
            str(self.log),
            "--port",
            str(self.port),
            "--without-gates",
        ]
        with self.out.open("ab") as out:
            self.process = subprocess.Popen([sys.executable, "-m", "trivium", *words], stdout=out, stderr=out)
        async with aiohttp.ClientSession() as http:
            for _ in range(6000):
                assert self.process.poll() is None, self.out.read_text()
                with contextlib.suppress(aiohttp.ClientError):
                    async with http.get(self.url + "/health") as response:
                        if response.status == 200:
                            return
                await asyncio.sleep(0.1)
        raise AssertionError(self.out.read_text())

    def kill(self, number: int = signal.SIGKILL) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(60)


def _free_port() -> int:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextlib.asynccontextmanager
async def started(folder: Path, **changes: Any) -> AsyncIterator[tuple[Arm, Arm, Process]]:
    arms = Arm(), Arm()
    for arm in arms:
        await arm.start()
    router = Process(folder, plan_for(*arms, **changes))
    try:
        await router.start()
        yield *arms, router
    finally:
        if router.process is not None and router.process.poll() is None:
            router.kill()
        for arm in arms:
            await arm.stop()


def test_kills_lose_no_reply_and_move_no_user(tmp_path: Path) -> None:
    """50 kills of candidate and router, in turn, under the requests of 20 users: whenever there is a router, there is a reply."""

    async def work() -> tuple[int, int, int]:
        answered = refused = wrong = 0
        up, stop = asyncio.Event(), asyncio.Event()
        up.set()

        async def user(number: int, http: aiohttp.ClientSession, url: str) -> None:
            nonlocal answered, refused, wrong
            turn = 0
            while not stop.is_set():
                turn += 1
                body = {"user": f"user-{number}", "stream": turn % 2 == 0, "messages": []}
                was_up = up.is_set()
                try:
                    async with http.post(url + CHAT, json=body) as response:
                        got = await response.read()
                    good = b"".join(STREAM) if body["stream"] else whole()
                    answered += 1
                    wrong += response.status != 200 or got != good
                except aiohttp.ClientError:
                    refused += was_up and up.is_set()  # while there was a router from beginning to end
                await asyncio.sleep(0.05)

        stages = [{"share": 0.5, "min_units": 10_000}]
        guardrails = {"slow": {"metric": "slow", "within": 0.1}}  # kills are no reason to roll back here
        async with (
            started(tmp_path, unit="user", stages=stages, guardrails=guardrails) as (
                _,
                candidate,
                router,
            ),
            aiohttp.ClientSession() as http,
        ):
            users = [asyncio.create_task(user(number, http, router.url)) for number in range(20)]
            for kill in range(KILLS):
                await asyncio.sleep(0.2)
                if kill % 5 == 4:
                    up.clear()
                    router.kill()
                    await router.start()
                    up.set()
                else:
                    await candidate.stop()
                    await asyncio.sleep(0.1)
                    await candidate.start()
            await asyncio.sleep(2.0)
            stop.set()
            await asyncio.gather(*users)
            served = {body["user"] for body in candidate.seen}
            alone = {f"user-{number}" for number in range(20)} - served
            assert served and alone
            await asyncio.sleep(0.5)
        return answered, refused, wrong

    answered, refused, wrong = asyncio.run(work())
    requests = [event for event in events_of(tmp_path / "log.db") if event["event"] == "request"]
    arms: dict[str, set[str]] = {}
    for event in requests:
        arms.setdefault(event["unit"], set()).add(event["arm"])
    print(f"{answered} answered, {len(requests)} in the log, {KILLS} kills")
    assert answered > 200 and refused == 0 and wrong == 0
    assert len(arms) == 20 and all(len(found) == 1 for found in arms.values())


def test_a_rollback_outlives_a_kill(tmp_path: Path) -> None:
    """Rollback while a promotion is being written, then SIGKILL, then a start: nothing reaches the candidate any more."""

    async def work() -> None:
        stages = [{"share": 0.3, "decide": False}, {"share": 0.6}, {"share": 0.9}]
        async with (
            started(tmp_path, stages=stages) as (_, candidate, router),
            aiohttp.ClientSession() as http,
        ):

            async def act(name: str, **more: Any) -> int:
                body = {"reason": "x", "who": "ann", **more}
                async with http.post(f"{router.url}/rollout/{name}", json=body) as response:
                    return response.status

            async def ask(count: int) -> None:
                for _ in range(count):
                    async with http.post(router.url + CHAT, json={"messages": []}) as response:
                        assert response.status == 200

            await ask(20)
            assert candidate.seen
            codes = await asyncio.gather(act("promote", stage=0), act("rollback"), act("rollback"))
            assert codes[1:] == [200, 200]
            router.kill()
            before = len(candidate.seen)
            await router.start()
            await ask(30)
            assert len(candidate.seen) == before
            assert await act("promote") == 409

    asyncio.run(work())
    rows = [row["action"] for row, _ in replay(journal.events(tmp_path / "log.db"))]
    assert rows.count("roll back") == 1
    assert fold(journal.events(tmp_path / "log.db")).status == "rolled back"


def test_commands_and_an_end_that_waits(tmp_path: Path) -> None:
    async def slowly(request: Any, body: dict[str, Any]) -> Any:
        from aiohttp import web

        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for piece in STREAM:
            await response.write(piece)
            await asyncio.sleep(0.3)
        return response

    async def work() -> None:
        async with (
            started(tmp_path, stages=[{"share": 1.0}]) as (_, candidate, router),
            aiohttp.ClientSession() as http,
        ):

            async def trivium(*words: str) -> tuple[int, str]:
                command = [sys.executable, "-m", "trivium", "rollout", *words, "--url", router.url]
                process = await asyncio.create_subprocess_exec(*command, stdout=-1, stderr=-1)
                out, errors = await process.communicate()
                return process.returncode or 0, (out + errors).decode()

            code, shown = await trivium("hold", "--reason", "lunch")
            assert code == 0 and "held" in shown
            code, shown = await trivium("status")
            told = json.loads(shown)
            assert code == 0 and told["verdicts"][0]["reason"] == "lunch" and told["share"] == 1.0
            candidate.handler = slowly
            under_way = asyncio.create_task(
                http.post(router.url + CHAT, json={"messages": [], "stream": True})
            )
            await until(lambda: len(candidate.seen) == 1)
            code, shown = await trivium("rollback", "--reason", "enough")
            assert code == 0 and "0%" in shown
            assert router.process is not None
            router.process.send_signal(signal.SIGTERM)
            response = await under_way
            assert await response.read() == b"".join(STREAM)  # what had begun ends
            assert await asyncio.to_thread(router.process.wait, 30) == 0

    asyncio.run(work())
    assert [row["action"] for row, _ in replay(journal.events(tmp_path / "log.db"))] == ["hold", "roll back"]


def test_a_disk_without_room(tmp_path: Path) -> None:
    """A real limit on the size of files: routing goes on, the log stays whole, and a start finds it so."""

    async def work() -> None:
        async with started(tmp_path) as (_, _, router), aiohttp.ClientSession() as http:
            import resource

            assert router.process is not None
            size = 200_000 + max(path.stat().st_size for path in tmp_path.glob("log.db*"))
            resource.prlimit(router.process.pid, resource.RLIMIT_FSIZE, (size, size))
            told: dict[str, Any] = {"stuck": None}
            while not told["stuck"]:
                async with http.post(router.url + CHAT, json={"messages": []}) as response:
                    assert response.status == 200
                async with http.get(router.url + "/rollout/status") as response:
                    told = await response.json()
            for _ in range(10):
                async with http.post(router.url + CHAT, json={"messages": []}) as response:
                    assert response.status == 200
            assert told["status"] == "running"
            router.kill()
            await router.start()

    asyncio.run(work())
    assert {event["event"] for event in events_of(tmp_path / "log.db")} == {"started", "request"}
