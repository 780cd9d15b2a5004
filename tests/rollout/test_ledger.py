"""Verdicts in front of real requests: counted at the candidate, written once, the same after a kill and on replay."""

from __future__ import annotations

import asyncio
import errno
import json
from pathlib import Path
from typing import Any

import pytest
from routed import GUARDRAILS, Arm, Site, answers, events_of, plan_for, site, until, whole

from trivium import files
from trivium.errors import ArtifactError
from trivium.rollout import journal
from trivium.rollout.ledger import Ledger
from trivium.rollout.log import fold
from trivium.rollout.simulate import replay


def run(log: Path, work: Any, **changes: Any) -> Any:
    async def inside() -> Any:
        async with site(log, **changes) as here:
            return await work(here)

    return asyncio.run(inside())


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    return tmp_path / "log.jsonl"


def same_again(log: Path) -> list[dict[str, Any]]:
    """The verdicts of a log; ArtifactError where its events say otherwise."""
    return [event for event, _ in replay(journal.events(log))]


def test_a_breach_takes_the_candidate_away(log: Path) -> None:
    async def work(here: Site) -> None:
        for _ in range(60):
            assert (await here.ask())[0] == 200
            if here.ledger.share == 0:
                break
            await asyncio.sleep(0.02)
        await until(lambda: here.ledger.share == 0)
        reached = len(here.candidate.seen)
        assert reached <= 50  # a half of the 60 at most, but for chance
        for _ in range(50):
            await here.ask()
        assert len(here.candidate.seen) == reached
        status = await here.status()
        assert status["status"] == "rolled back" and "empty" in status["verdicts"][0]["reason"]

    run(log, work, candidate=answers(whole("")))
    assert [row["action"] for row in same_again(log)] == ["roll back"]


def test_a_good_candidate_is_promoted_and_the_log_says_the_same(log: Path) -> None:
    async def work(here: Site) -> None:
        for _ in range(100):
            await asyncio.gather(*(here.ask() for _ in range(20)))
            if here.ledger.share == 1:
                break
        assert here.ledger.state.status == "promoted"

    stages = [{"share": 0.2, "min_units": 10, "decide": False}, {"share": 0.5, "min_units": 60}]
    guardrails = {"errors": {"metric": "error", "within": 0.5}, "empty": {"metric": "empty", "within": 0.5}}

    async def sometimes(request: Any, body: Any) -> Any:
        """Both arms fail alike."""
        sometimes.count += 1
        text = "" if sometimes.count % 7 == 0 else "Well."
        status = 500 if sometimes.count % 5 == 0 else 200
        return await answers(whole(text), status)(request, body)

    sometimes.count = 0
    run(log, work, stable=sometimes, candidate=sometimes, stages=stages, guardrails=guardrails)
    assert [row["action"] for row in same_again(log)] == ["promote", "promote"]
    assert fold(journal.events(log)).status == "promoted"


def test_people_act_once_with_a_reason_and_a_name(log: Path) -> None:
    async def work(here: Site) -> None:
        assert (await here.do("promote", reason=""))[0] == 400
        async with here.http.post(f"{here.url}/rollout/promote", json={"reason": "x"}) as response:
            assert response.status == 400  # who?
        assert (await here.do("promote", stage=1))[0] == 409
        status, said = await here.do("promote", stage=0)
        assert (status, said["stage"], said["share"], said["again"]) == (200, 1, 0.5, False)
        assert (await here.do("promote", stage=0))[1]["again"] is True
        assert (await here.do("hold"))[1]["status"] == "held"
        assert (await here.do("hold"))[1]["again"] is True
        assert (await here.do("resume"))[1]["status"] == "running"
        both = await asyncio.gather(here.do("promote", stage=1), here.do("rollback"), here.do("rollback"))
        assert here.ledger.share == 0 and here.ledger.state.status == "rolled back"
        assert both[1][0] == both[2][0] == 200
        assert (
            (await here.do("promote"))[0] == (await here.do("hold"))[0] == (await here.do("resume"))[0] == 409
        )
        assert (await here.do("rollback"))[1]["again"] is True

    run(log, work, stages=[{"share": 0.1, "decide": False}, {"share": 0.5}, {"share": 0.6}])
    rows = same_again(log)
    assert [row["action"] for row in rows if row["action"] != "promote"] == ["hold", "resume", "roll back"]
    assert all(row["by"] == "ann" and row["reason"] == "a test" and row["at"] for row in rows)


def test_keys_say_who(log: Path, tmp_path: Path) -> None:
    from trivium.rollout.server import Options
    from trivium.serve.keys import add

    keys = tmp_path / "admins"
    key = add(keys, "bob")

    async def work(here: Site) -> None:
        assert (await here.do("rollback"))[0] == 401
        async with here.http.get(f"{here.url}/rollout/status") as response:
            assert response.status == 401
        header = {"Authorization": f"Bearer {key}"}
        async with here.http.post(
            f"{here.url}/rollout/hold", json={"reason": "x"}, headers=header
        ) as response:
            assert response.status == 200
        assert (await here.ask())[0] == 200  # users need none

    run(log, work, options=Options(admin_keys=keys))
    assert same_again(log)[0]["by"] == "bob"


def test_a_rollback_holds_though_nothing_can_be_written(lines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Routing goes on and says that it holds; once there is room, nothing is missing."""
    full = {"now": True}
    write = files.append_line

    def maybe(*args: Any, **more: Any) -> None:
        if full["now"]:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(*args, **more)

    async def work(here: Site) -> None:
        monkeypatch.setattr(files, "append_line", maybe)
        assert (await here.ask())[0] == 200
        await until(lambda: here.ledger.stuck is not None)
        assert (await here.status())["stuck"] == "No space left on device"
        assert (await here.do("promote", stage=0))[0] == 503 and here.ledger.share == 0.5
        assert (await here.do("rollback"))[0] == 503 and here.ledger.share == 0
        before = len(here.candidate.seen)
        assert [(await here.ask())[0] for _ in range(20)] == [200] * 20 and len(here.candidate.seen) == before
        full["now"] = False
        await until(lambda: here.ledger.stuck is None)

    run(lines, work, stages=[{"share": 0.5}, {"share": 0.6}])
    assert [row["action"] for row in same_again(lines)] == ["promote", "roll back"]
    assert sum(line["event"] == "request" for line in events_of(lines)) == 21


def test_nothing_is_promoted_that_is_not_written(lines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(here: Site) -> None:
        monkeypatch.setattr(files, "append_line", _no_room)
        for _ in range(20):
            await here.ask()
        await until(lambda: here.ledger.stuck is not None and not here.ledger.underway)
        await asyncio.sleep(0.3)
        assert here.ledger.share == 0.5
        monkeypatch.undo()
        await until(lambda: here.ledger.share == 0.6)

    run(lines, work, stages=[{"share": 0.5, "min_units": 1, "decide": False}, {"share": 0.6}])
    assert [row["action"] for row in same_again(lines)] == ["promote"]


def _no_room(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_log_is_gone_on_with(lines: Path) -> None:
    async def first(here: Site) -> None:
        for number in range(10):
            await here.ask(f"user-{number}")
        await here.do("promote")

    async def second(here: Site) -> None:
        assert here.ledger.share == 0.5 and here.ledger.state.stage == 1 and here.ledger.now > before
        await here.do("rollback")

    async def third(here: Site) -> None:
        assert here.ledger.share == 0.0
        for number in range(10):
            await here.ask(f"user-{number}")
        assert not here.candidate.seen

    changes: dict[str, Any] = {"unit": "user", "stages": [{"share": 0.1, "decide": False}, {"share": 0.5}]}
    plan_of_first = {}

    def keep(work: Any) -> Any:
        """The arms' ports differ from run to run, and with them the plan: the log's own is taken."""

        async def inside(here: Site) -> None:
            plan_of_first.setdefault("plan", here.ledger.plan)
            await work(here)

        return inside

    run(lines, keep(first), **changes)
    before = fold(journal.events(lines)).now
    with lines.open("a") as file:
        file.write('{"t": 3, "event": "requ')  # what a kill leaves
    arms = json.loads(lines.read_text().splitlines()[0])["plan"]["arms"]
    run(lines, second, arms=arms, **changes)
    run(lines, third, arms=arms, **changes)
    with pytest.raises(ArtifactError, match="no event"):
        text = lines.read_text().splitlines()
        lines.write_text("\n".join([text[0], "garbage", *text[1:]]) + "\n")
        run(lines, third, arms=arms, **changes)


def test_a_log_of_another_rollout_is_not_taken(log: Path) -> None:
    async def nothing(here: Site) -> None:
        pass

    async def end(here: Site) -> None:
        await here.do("rollback")

    run(log, end, name="first")
    run(log, nothing, name="second")  # the first has ended
    with pytest.raises(ArtifactError, match="another rollout"):
        run(log, nothing, name="third")


def test_feedback_joins_its_request_once(log: Path) -> None:
    async def work(here: Site) -> None:
        _, _, headers = await here.ask("ann")
        mine = headers["x-trivium-request"]
        assert await here.vote(mine) == 200  # at once: the request is not written yet
        assert await here.vote(mine) == await here.vote(mine, 0.0) == 200
        assert await here.vote(mine, 1.0, "thumbs_down") == 200
        assert await here.vote("0" * 24) == 404
        assert (
            await here.vote("x") == await here.vote(mine, 2.0) == await here.vote(mine, 1.0, "error") == 400
        )
        for _ in range(3):
            _, _, headers = await here.ask("ann")
            last = await here.vote(headers["x-trivium-request"])
        assert last == 429  # three of one user are taken
        _, _, headers = await here.ask("bob")
        assert await here.vote(headers["x-trivium-request"]) == 200
        status = await here.status()
        thumbs = status["guardrails"]["thumbs"]["arms"]
        assert thumbs["candidate"]["units"] + thumbs["stable"]["units"] == 2

    guardrails = GUARDRAILS | {"thumbs": {"metric": "thumbs", "within": 0.1}}
    run(log, work, unit="user", cap=3, guardrails=guardrails)
    votes = [(line["metric"], line["value"]) for line in events_of(log) if line["event"] == "feedback"]
    assert votes == [("thumbs", 1.0), ("thumbs_down", 1.0), ("thumbs", 1.0), ("thumbs", 1.0)]


def test_a_clock_that_jumps_moves_no_stage(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    async def work(here: Site) -> None:
        monkeypatch.setattr(time, "time", lambda: 4e9)
        await here.ask()
        await asyncio.sleep(0.3)
        assert here.ledger.state.stage == 0 and here.ledger.now < 3000

    run(log, work, stages=[{"share": 0.5, "min_units": 0, "min_time": "1h", "decide": False}, {"share": 0.6}])


def test_a_file_that_is_no_log_is_left_alone(tmp_path: Path) -> None:
    for name, data in (("old.log", b'{"t": 1, "event": "tick"}\n'), ("garbage.db", bytes(range(256)) * 20)):
        path = tmp_path / name
        path.write_bytes(data)
        for _ in range(2):  # nor does it stay locked
            with pytest.raises(ArtifactError, match="not a database"):
                Ledger(path, plan_for(Arm(), Arm())).open({"url": "stub"}, force=True)
        with pytest.raises(ArtifactError, match="not a database"):
            list(journal.events(path))
        assert path.read_bytes() == data
    with pytest.raises(ArtifactError, match="no such log"):
        list(journal.events(tmp_path / "missing.db"))
    with pytest.raises(ArtifactError, match="PostgreSQL only") as raised:
        journal.journal_at("mysql://ann:secret@host/name")
    assert "secret" not in str(raised.value)


def test_time_is_the_logs_own(tmp_path: Path) -> None:
    """It begins at 0 and goes on where it stood, whatever the machine's clock says."""
    clock = {"now": 5000.0}
    for began, place in ((0.0, "log.db"), (7.0, "log.db"), (0.0, "log.jsonl"), (7.0, "log.jsonl")):
        ledger = Ledger(tmp_path / place, plan_for(Arm(), Arm()), clock=lambda: clock["now"])
        ledger.open({"url": "stub"}, force=True)
        assert ledger.now == began
        clock["now"] += 7
        ledger.journal.write([{"t": ledger.now, "event": "tick"}])
        ledger.journal.close()
        clock["now"] = 100.0


def test_time_alone_decides_and_is_in_the_log(log: Path) -> None:
    async def work(here: Site) -> None:
        await until(lambda: here.ledger.state.status == "held")
        assert "overdue" in (await here.status())["verdicts"][-1]["reason"]

    run(log, work, stages=[{"share": 0.5, "min_units": 5, "max_time": "0.3s"}])
    assert [row["action"] for row in same_again(log)] == ["hold"]
    assert sum(line["event"] == "tick" for line in events_of(log)) == 1
