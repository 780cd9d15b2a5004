"""A synthesize stage against a real server that fails first: what is paid, what a kill costs, what is said when it is down."""

from __future__ import annotations

import json
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from chat_server import chat_of, raw, send, status
from forked import Forked

from trivium.errors import DataError
from trivium.generate import remote
from trivium.recipe.synthesis import SynthesizeStage
from trivium.synthesize import build as stage

PROMPTS, SAMPLES = 6, 3


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses are noted and not taken; the rate limit's too."""
    slept: list[float] = []
    monkeypatch.setattr(remote.Remote.__init__, "__defaults__", (None, slept.append))
    return slept


@pytest.fixture
def data(tmp_path: Path, write_lines) -> Path:
    rows = [
        {"key": f"k{n}", "source": "jsonl", "license": "MIT", "origin": "o", "meta": {},
         "messages": [{"role": "user", "content": f"what is {n} plus one"}, {"role": "assistant", "content": f"Answer: {n + 1}"}]}
        for n in range(PROMPTS)
    ]  # fmt: skip
    write_lines(tmp_path / "data" / "heldout.jsonl", [])
    return write_lines(tmp_path / "data" / "train.jsonl", rows).parent


def config(url: str, **teacher: Any) -> dict[str, Any]:
    known = {"kind": "openai", "url": url, "model": "big", "price_in": 1.0, "price_out": 2.0, "timeout": 2}
    return {"kind": "synthesize", "method": "cot", "data": "data", "teacher": known | teacher, "prompts": PROMPTS,
            "samples": SAMPLES, "keep": SAMPLES, "verifier": {"kind": "exact"}, "max_new_tokens": 20}  # fmt: skip


def run(folder: Path, fields: dict[str, Any], name: str = "out") -> dict[str, Any]:
    (folder / name).mkdir(exist_ok=True)
    return stage.build(
        SynthesizeStage.model_validate(fields),
        seed=1,
        recipe_folder=folder,
        inputs={"data": (folder / "data", "d")},
        work=folder / "work",
        out=folder / name,
        emit=lambda event: None,
    )


def right(handler: Any, body: Any) -> None:
    """The right answer, another text for every seed."""
    number = int(body["messages"][-1]["content"].split()[2])
    send(handler, 200, chat_of(f"Sample {body['seed']}. Answer: {number + 1}"))


def slow(handler: Any, body: Any) -> None:
    time.sleep(2.5)
    handler.close_connection = True  # by then the client has left


def reset(handler: Any, body: Any) -> None:
    handler.connection.close()


def test_every_failure_is_passed_and_every_answer_is_paid_once(tmp_path, data, server, no_waiting):
    failures = [
        status(429, Retry_After="3"),
        status(500),
        slow,
        raw(b"<html>"),
        reset,
        raw(b'{"choices": []}'),
    ]
    server.plan = [*failures, right]
    found = run(tmp_path, config(server.url, parallel=3))
    asked = PROMPTS * SAMPLES
    assert len(server.seen) == asked + len(failures) and len(no_waiting) == len(failures)
    assert 3 in no_waiting  # as the server asked
    assert found["requests"] == asked and found["accepted"] == asked == found["train_items"]
    assert (found["prompt_tokens"], found["reply_tokens"]) == (asked * 10, asked * 5)
    assert found["cost"] == pytest.approx(asked * (10 * 1.0 + 5 * 2.0) / 1e6, abs=1e-6)
    assert len({one["seed"] for one in server.seen}) == SAMPLES
    rows = [json.loads(line) for line in (tmp_path / "out" / "train.jsonl").read_text().splitlines()]
    for row in rows:
        made = row["meta"]["synthesis"]
        assert made["teacher"] == "big" and made["score"] == 1 and made["sample"] in range(SAMPLES)
        assert row["license"] == "MIT" and row["messages"][0]["content"].startswith("what is")
    assert len({row["messages"][-1]["content"] for row in rows}) == asked
    account = json.loads((tmp_path / "out" / "account.json").read_text())
    assert account["statistics"] == found["statistics"]
    assert account["statistics"]["repeated_prompts"] == asked - PROMPTS
    assert account["statistics"]["overlap_with_evaluation"] == 0


def test_the_rate_is_kept_to(tmp_path, data, server, no_waiting):
    server.plan = [right]
    run(tmp_path, config(server.url, per_minute=120, parallel=2))
    assert max(no_waiting) == pytest.approx((PROMPTS * SAMPLES - 1) * 0.5, abs=0.5)


def test_a_server_that_is_down_is_said_so_with_its_address(tmp_path, data, server):
    server.plan = [right]
    server.close()
    with pytest.raises(DataError, match=r"no answer after 3 tries; the last: .*refused") as caught:
        run(tmp_path, config(server.url, retries=2, parallel=1))
    assert server.url in str(caught.value) and "check that the server is up" in str(caught.value)
    assert not (tmp_path / "out" / "train.jsonl").exists()


KILLED = """
import json, sys
from pathlib import Path
from test_served import run
run(Path(sys.argv[1]), json.loads(sys.argv[2]))
"""


def test_killed_in_the_middle_it_goes_on_and_pays_for_what_was_under_way_alone(tmp_path, data, server):
    """A real process, a real kill: the server counts what it was asked."""
    fields = config(server.url, parallel=2, timeout=60)
    enough, go = threading.Event(), threading.Event()

    def stuck(handler: Any, body: Any) -> None:
        if len(server.seen) > 7:
            enough.set()
            go.wait(300)
        right(handler, body)

    server.plan = [stuck]
    process = Forked(KILLED, tmp_path, json.dumps(fields), path=Path(__file__).parents[:2])
    assert enough.wait(300)
    time.sleep(0.2)  # the second of the two requests that will be lost
    process.send_signal(signal.SIGKILL)
    process.wait()
    lost, server.plan = len(server.seen), [right]
    go.set()
    journal = tmp_path / "work" / "teacher.jsonl"
    kept = len(journal.read_text().splitlines())
    assert kept == 7 and lost <= kept + 2
    found = run(tmp_path, fields)
    assert len(server.seen) == lost + PROMPTS * SAMPLES - kept
    assert found["requests"] == PROMPTS * SAMPLES
    made = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    journal.unlink()
    run(tmp_path, fields, "fresh")
    assert {path.name: path.read_bytes() for path in (tmp_path / "fresh").iterdir()} == made
