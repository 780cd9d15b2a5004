"""Every kind of bad input by name: the stable arm keeps answering, and what is wrong is said.

Beside these: a full disk and kills in test_router_kills.py, a database that goes away in test_shared.py, plans that cannot work
in test_policy.py and test_several.py, hostile bytes of any shape in test_measured.py.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from routed import CHAT, Arm, Handler, answers, event, events_of, in_loop, site, until, whole

from trivium.rollout.log import fold
from trivium.rollout.simulate import replay

STAGES = [{"share": 0.5, "min_units": 30}]


@pytest.fixture
def port() -> Iterator[int]:
    """One where nobody listens, kept free while the test runs."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


LOADS = "import time; time.sleep(0.2); raise SystemExit('out of memory while loading')"
SERVES = (
    "import os, socket, sys; s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); print('up', flush=True); "
    "c, _ = s.accept(); c.recv(10); os._exit(1)"
)


@in_loop
async def test_a_candidate_that_crashes_at_load_costs_no_reply(tmp_path: Path, port: int) -> None:
    """A real process that ends before it listens: stable answers all, the arm rests, and the policy takes it away."""
    loading = subprocess.Popen([sys.executable, "-c", LOADS], stderr=subprocess.DEVNULL)
    gone = Arm(port=port)  # never started
    async with site(
        tmp_path / "log.jsonl", candidates={"candidate": gone}, stages=STAGES, started=False
    ) as here:
        for n in range(80):
            assert (await here.ask(str(n)))[:2] == (200, whole())
        await until(lambda: here.ledger.share == 0)
        assert loading.wait(30) != 0 and not gone.seen
        status = await here.status()
        assert status["status"] == "rolled back" and status["verdicts"][-1]["reason"].startswith("errors: ")
        assert status["arms"]["candidate"]["resting"] and status["traffic"]["retried"] >= 5
    said = [row.get("why", "") for row in events_of(tmp_path / "log.jsonl") if row.get("arm") == "candidate"]
    assert any("Connect" in why for why in said) and any("rests" in why for why in said)
    assert [row["action"] for row, _ in replay(events_of(tmp_path / "log.jsonl"))] == ["roll back"]


@in_loop
async def test_a_candidate_that_crashes_on_its_first_request_costs_no_reply(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = free.getsockname()[1]
    crashing = subprocess.Popen([sys.executable, "-c", SERVES, str(number)], stdout=subprocess.PIPE)
    assert crashing.stdout is not None and crashing.stdout.readline() == b"up\n"
    gone = Arm(port=number)
    async with site(
        tmp_path / "log.jsonl", candidates={"candidate": gone}, stages=STAGES, started=False
    ) as here:
        for n in range(60):
            assert (await here.ask(str(n)))[:2] == (200, whole())
        await until(lambda: here.ledger.share == 0)
    assert crashing.wait(30) == 1


async def never(request: Any, body: dict[str, Any]) -> Any:
    await asyncio.sleep(3600)


NUMBER = b'{"choices": [{"index": 0, "message": {"content": "x"}, "finish_reason": "stop", "logprob": NaN}]}'
FAULTS: dict[str, tuple[Handler, bool, str]] = {
    "hangs": (never, False, "silence"),
    "streams garbage": (answers(b"\xff\x00garbage" * 9000, content_type="text/event-stream"), True, "stream without"),
    "streams what is no JSON": (answers(b"data: {nothing\n\n", content_type="text/event-stream"), True, "no JSON"),
    "error inside a 200": (answers(b'{"error": {"message": "out of memory"}}'), False, "an error inside"),
    "error inside a stream": (answers(b'data: {"error": "no memory"}\n\n', content_type="text/event-stream"), True, "an error"),
    "NaN": (answers(NUMBER), False, "NaN inside"),
    "wrong content type": (answers(whole(), content_type="text/html"), False, "content type text/html"),
    "wrong content type of a stream": (answers(event("x"), content_type="application/json"), True, "content type"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_candidate_that(fault: str, tmp_path: Path) -> None:
    """All users get stable's reply, the fault stands in the log by its name, and the candidate is taken away for it."""
    handler, streamed, says = FAULTS[fault]

    async def work() -> None:
        # what is waited out is short; elsewhere stable answers 80 at once on a machine that may stand still for a second
        patience = {"patience": "1s" if handler is never else "20s"}
        async with site(tmp_path / "log.jsonl", candidate=handler, stages=STAGES, of_arms=patience) as here:
            asking = [here.ask(str(n), **({"stream": True} if streamed else {})) for n in range(80)]
            for status, body, _ in await asyncio.gather(*asking):
                assert status == 200 and (b"[DONE]" in body if streamed else body == whole())
            await until(lambda: here.ledger.share == 0)

    asyncio.run(work())
    log = events_of(tmp_path / "log.jsonl")
    said = [row["why"] for row in log if row["event"] == "request" and row.get("why")]
    assert says in said[0], said[0]
    assert [row["action"] for row, _ in replay(log)] == ["roll back"]


@in_loop
async def test_a_thousand_votes_of_one_user_are_twenty(tmp_path: Path) -> None:
    guardrails = {"liked": {"metric": "thumbs_down", "within": 0.1}}
    async with site(tmp_path / "log.jsonl", guardrails=guardrails, unit="user", stages=STAGES) as here:
        requests = [(await here.ask("loud"))[2]["x-trivium-request"] for _ in range(250)]
        metrics = ("thumbs", "thumbs_down", "regenerated", "success")
        votes = [here.vote(request, 1.0, metric) for request in requests for metric in metrics]
        found = await asyncio.gather(*votes)
        assert len(found) == 1000 and found.count(200) == 20 and found.count(429) == 980
        status = await here.status()
        assert status["feedback"] == {"unmatched": 0, "capped": 0}  # those were not even written
        assert sum(status["guardrails"]["liked"]["bad_units"].values()) == 1
    log = events_of(tmp_path / "log.jsonl")
    assert sum(row["event"] == "feedback" for row in log) == 20 and fold(log).votes == 20


@in_loop
async def test_feedback_for_a_request_that_nobody_knows(tmp_path: Path) -> None:
    async with site(tmp_path / "log.jsonl") as here:
        for body, status, says in (
            ({"id": "0" * 24, "metric": "thumbs", "value": 1}, 404, "no request"),
            ({"id": "x", "metric": "thumbs", "value": 1}, 400, "id"),
            ({"id": "0" * 24, "metric": "thumbs", "value": float("nan")}, 400, ""),
            ({"id": "0" * 24, "metric": "error", "value": 1}, 400, "metric"),
            ({"id": "0" * 24, "metric": "thumbs", "value": 7}, 400, "value"),
            ({"id": "0" * 24, "metric": "thumbs", "value": 1, "edit": "x"}, 400, "edit"),
        ):
            async with here.http.post(f"{here.url}/v1/feedback", json=body) as response:
                assert response.status == status and says in str(await response.json())
        assert (await here.ask())[0] == 200
    assert not [row for row in events_of(tmp_path / "log.jsonl") if row["event"] == "feedback"]


@in_loop
async def test_a_clock_that_jumps_ends_no_stage_and_counts_no_request_as_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour forward and a day back on the machine's calendar clock, while a stage of an hour is under way."""
    stages = [
        {"share": 0.5, "min_units": 1, "min_time": "1h", "max_time": "2h", "decide": False},
        {"share": 0.6},
    ]
    slow = {"slow": {"metric": "slow", "within": 0.1}}
    real = time.time
    async with site(tmp_path / "log.jsonl", stages=stages, guardrails=slow) as here:
        for jump in (0, 3 * 3600, -86_400):
            monkeypatch.setattr(time, "time", lambda by=jump: real() + by)
            for n in range(10):
                assert (await here.ask(f"{jump} {n}", CHAT))[0] == 200
        await here.written()
        status = await here.status()
        assert status["stage"] == 0 and status["spent"] < 600 and "of 3600 seconds" in status["waiting"]
        assert sum(status["guardrails"]["slow"]["bad_units"].values()) == 0
    times = [row["t"] for row in events_of(tmp_path / "log.jsonl")]
    assert max(times) < 600
