"""The loop, closed: serve -> users with a taste -> votes -> DPO -> gates -> canary -> promoted, and lineage back to the votes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
import yaml
from routed import CHAT, until

from trivium.cli import main
from trivium.cli.router import candidate_of
from trivium.errors import GateError
from trivium.pipeline.lineage import lineage
from trivium.pipeline.store import Store
from trivium.rollout import journal
from trivium.rollout.ledger import Ledger
from trivium.rollout.log import fold
from trivium.rollout.plan import RolloutPlan, load_plan
from trivium.rollout.server import Options, build, client
from trivium.rollout.texts import Texts
from trivium.serve.process import configured

pytestmark = pytest.mark.slow
LETTER = "e"
RECIPE: dict[str, Any] = {
    "name": "loop",
    "seed": 3,
    "stages": {
        "corpus": {"kind": "data", "sources": [{"kind": "reasoning"}], "size": "60K"},
        "talk": {"kind": "data", "format": "conversations", "sources": [{"kind": "reasoning"}], "size": 120},
        "vocab": {"kind": "tokenizer", "data": "corpus", "vocab_size": 400},
        "base": {
            "kind": "pretrain", "data": "corpus", "tokenizer": "vocab", "steps": 60, "batch": 8, "lr": 3e-3,
            "model": {"dim": 32, "layers": 1, "heads": 2, "context": 128},
        },
        "chat": {
            "kind": "sft", "init": "base", "data": "talk", "steps": 20, "batch": 8,
            "generation": {"temperature": 1.0, "max_new_tokens": 24},
        },
    },
}  # fmt: skip
LEARNT: dict[str, Any] = {
    "votes": {
        "kind": "data", "format": "preferences", "size": 400, "heldout": 0.3,
        "sources": [{"kind": "jsonl", "path": "votes.jsonl", "license": "consented", "origin": "votes of the rollout first"}],
    },
    "aligned": {
        "kind": "dpo", "init": "chat", "data": "votes", "steps": 100, "batch": 8, "lr": 3e-3, "beta": 0.1,
        "generation": {"temperature": 1.0, "max_new_tokens": 24},
    },
    "liked": {
        "kind": "evaluate", "model": "aligned", "baseline": "chat",
        "suites": [{"kind": "preferences", "data": "votes", "items": 150, "max_new_tokens": 4}],
        "gates": {"preference_accuracy": {"min": 0.5}},
    },
    "release": {"kind": "release", "model": "aligned", "requires": ["liked"]},
}  # fmt: skip


def taste(reply: str) -> float:
    """What the users like: replies in which one letter is frequent."""
    return reply.count(LETTER) / max(len(reply), 1)


def trivium(folder: Path, *words: str) -> None:
    with contextlib.chdir(folder), pytest.raises(SystemExit) as stopped:
        main(list(words))
    assert not stopped.value.code


@contextlib.contextmanager
def served(checkpoint: Path, log: Path) -> Iterator[str]:
    """`trivium serve` on a port that it finds itself; gives its address."""
    words = ["serve", str(checkpoint), "--port", "0", "--name", "any"]
    with log.open("w+b") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "trivium", *words], stdout=out, stderr=out, env=dict(os.environ)
        )
        try:
            yield asyncio.run(_address(process, log))
        finally:
            process.kill()
            process.wait()


async def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    ports: list[int] = []

    def listening() -> bool:
        assert process.poll() is None, log.read_text()
        sockets = psutil.Process(process.pid).net_connections("tcp")
        ports.extend(each.laddr.port for each in sockets if each.status == psutil.CONN_LISTEN)
        return bool(ports)

    await until(listening, 600)
    return f"http://127.0.0.1:{ports[0]}"


class Users:
    """People in front of a router."""

    def __init__(self, url: str, http: aiohttp.ClientSession) -> None:
        self.url, self.http = url, http

    async def ask(self, who: str, words: str, seed: int) -> tuple[str, str]:
        """Name and text of a reply, with consent to learn from it; the seed makes it the same in every run of the test."""
        body = {
            "model": "any",
            "messages": [{"role": "user", "content": words}],
            "user": who,
            "seed": seed,
            "metadata": {"consent": "yes"},
        }
        async with self.http.post(self.url + CHAT, json=body) as response:
            answer = await response.json()
            assert response.status == 200, answer
            return response.headers["x-trivium-request"], answer["choices"][0]["message"]["content"]

    async def say(self, **feedback: Any) -> None:
        async with self.http.post(f"{self.url}/v1/feedback", json=feedback) as response:
            assert response.status == 200, await response.text()

    async def compare(self, number: int) -> None:
        """Two replies side by side, and the one that is liked better; none where they are alike."""
        one, other = [
            await self.ask(f"user-{number}", question(number), 2 * number + nth) for nth in range(2)
        ]
        if taste(one[1]) != taste(other[1]):
            better, worse = sorted((one, other), key=lambda reply: -taste(reply[1]))
            await self.say(id=better[0], over=worse[0])

    async def thumb(self, number: int, usual: float) -> float:
        name, reply = await self.ask(f"user-{number}", question(number), number)
        await self.say(id=name, metric="thumbs", value=float(taste(reply) > usual))
        return taste(reply)


@contextlib.asynccontextmanager
async def routed(
    plan: RolloutPlan, folder: Path, candidate: dict[str, Any], force: bool
) -> AsyncIterator[tuple[Ledger, Users]]:
    log, texts = folder / f"{plan.name}.db", Texts(folder / f"{plan.name}.texts")
    async with client() as session, aiohttp.ClientSession() as http:
        ledger = Ledger(log, plan, texts=texts)
        router = build(ledger, session, Options())
        ledger.open(candidate, force)
        await ledger.start()
        server = configured(router, "127.0.0.1", 0, lifespan="off")
        serving = asyncio.create_task(server.serve())
        try:
            await until(lambda: server.started)
            yield ledger, Users(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", http)
        finally:
            server.should_exit = True
            await serving
            await ledger.stop()


def plan(
    folder: Path, name: str, stable: str, candidate: str, guardrails: dict[str, Any], **arm: Any
) -> RolloutPlan:
    path = folder / f"{name}.yaml"
    arms = {"stable": {"url": stable}, "candidate": {"url": candidate, **arm}}
    stages = [{"share": 0.25, "min_units": 10, "decide": False}, {"share": 0.5, "min_units": 60}]
    path.write_text(yaml.safe_dump({"name": name, "stages": stages, "guardrails": guardrails, "arms": arms}))
    return load_plan(path)


def question(number: int) -> str:
    return f"What is {number} plus {number % 7 + 2}?"


async def vote(first: RolloutPlan, folder: Path) -> float:
    """Pairs of replies of the model as it is. Returns the middle of what users found in them."""
    async with routed(first, folder, {"url": first.arms["candidate"].url}, force=True) as (ledger, users):
        for number in range(0, 640, 8):
            await asyncio.gather(*(users.compare(n) for n in range(number, number + 8)))
        tastes = sorted([taste((await users.ask(f"late-{n}", question(n), n))[1]) for n in range(60)])
        await until(lambda: not ledger.underway)
    return tastes[len(tastes) // 2]


async def promote(second: RolloutPlan, folder: Path, usual: float) -> list[dict[str, Any]]:
    """Thumbs of users, until the rollout has ended by itself. Returns its verdicts."""
    candidate = candidate_of(second, folder, without_gates=False)
    async with routed(second, folder, candidate, force=False) as (ledger, users):
        for number in range(3000):
            await users.thumb(number, usual)
            if ledger.state.status not in ("running",):
                break
        return list(ledger.state.verdicts)


def test_votes_become_the_model_that_is_promoted(tmp_path: Path) -> None:
    recipe, runs = tmp_path / "loop.yaml", tmp_path / "runs" / "loop"
    recipe.write_text(yaml.safe_dump(RECIPE))
    trivium(tmp_path, "run", "loop.yaml")
    with served(runs / "chat", tmp_path / "stable.txt") as stable:
        first = plan(tmp_path, "first", stable, stable, {"errors": {"metric": "error", "within": 1e-6}})
        with pytest.raises(GateError):
            candidate_of(first, tmp_path, without_gates=False)
        usual = asyncio.run(vote(first, tmp_path))
        export = (
            "feedback",
            "export",
            "first.db",
            "--texts",
            "first.texts",
            "--kind",
            "preferences",
            "--out",
            "votes.jsonl",
        )
        trivium(tmp_path, *export)
        rows = [json.loads(line) for line in (tmp_path / "votes.jsonl").read_text().splitlines()]
        assert len(rows) > 450 and all(taste(row["chosen"]) > taste(row["rejected"]) for row in rows)

        recipe.write_text(yaml.safe_dump(RECIPE | {"stages": RECIPE["stages"] | LEARNT}))
        trivium(tmp_path, "run", "loop.yaml")
        with served(runs / "release", tmp_path / "candidate.txt") as candidate:
            liked = {
                "thumbs": {"metric": "thumbs", "within": 0.1},
                "errors": {"metric": "error", "within": 0.1},
            }
            second = plan(tmp_path, "second", stable, candidate, liked, artifact="runs/loop/release")
            verdicts = asyncio.run(promote(second, tmp_path, usual))
    assert [row["action"] for row in verdicts] == ["promote", "promote"], verdicts
    trivium(tmp_path, "rollout", "replay", "second.db")

    tree = lineage(runs / "release", Store(tmp_path / ".trivium"))
    assert fold(journal.events(tmp_path / "second.db")).candidate["fingerprint"] == tree.fingerprint
    nodes, waiting = [], [tree]
    while waiting:
        nodes.append(waiting.pop())
        waiting += nodes[-1].inputs
    assert {"votes of the rollout first"} == {
        source["origin"] for node in nodes if node.stage == "votes" for source in node.sources
    }
