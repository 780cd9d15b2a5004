"""Promotions wait for their windows; rollbacks and people wait for nothing, and a replay reads the windows from the log."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from routed import GUARDRAILS, answers, events_of, in_loop, site, until, whole

from trivium.errors import RecipeError
from trivium.rollout import entries
from trivium.rollout.plan import plan_of
from trivium.rollout.simulate import replay, simulate
from trivium.rollout.traffic import Behaviour, Traffic
from trivium.rollout.windows import is_open, window

MONDAY = datetime(2026, 11, 23, tzinfo=UTC)
STAGES = [{"share": 0.5, "min_units": 5, "decide": False}, {"share": 0.6, "min_units": 10_000}]
HOURS = ["mon-fri 09:00-16:00"]


@given(st.integers(0, 7 * 24 * 60 - 1))
def test_a_week_by_hand(minute: int) -> None:
    at = MONDAY + timedelta(minutes=minute)
    day, clock = divmod(minute, 24 * 60)
    assert is_open(HOURS, at) == (day < 5 and 540 <= clock < 960)
    assert is_open(["22:30-02:00"], at) == (clock >= 1350 or clock < 120)
    # past midnight it belongs to the day on which it began
    assert is_open(["sun 22:30-02:00"], at) == ((day == 6 and clock >= 1350) or (day == 0 and clock < 120))
    assert is_open(["sat-mon 00:00-24:00"], at) == (day in (5, 6, 0))
    assert is_open([], at) and is_open(["00:00-12:00", "12:00-24:00"], at)


def test_zones_keep_their_own_time() -> None:
    for month, opens in ((1, 8), (7, 7)):  # winter and summer in Berlin
        day = datetime(2026, month, 5, tzinfo=UTC)
        found = [hour for hour in range(24) if is_open(["09:00-10:00 Europe/Berlin"], day.replace(hour=hour))]
        assert found == [opens]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("9-16", "no time of the week"), ("mon-fry 09:00-16:00", "'fry' is no day"), ("09:00-09:00", "ends where it begins"),
        ("09:00-25:00", "no time of a day"), ("09:00-16:61", "no time of a day"), ("09:00-16:00 Europe/Nowhere", "no time zone"),
        ("09:00-16:00 ../etc/passwd", "no time zone"),
    ],
)  # fmt: skip
def test_what_is_no_window(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        window(text)
    plan = {"name": "chat", "stages": STAGES, "guardrails": GUARDRAILS, "windows": [text]}
    with pytest.raises(RecipeError, match=says):
        plan_of(plan)


@in_loop
async def test_a_promotion_waits_for_its_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = {"now": MONDAY.replace(hour=8, minute=59)}
    monkeypatch.setattr(entries, "datetime", _clock(clock))
    log = tmp_path / "log.jsonl"
    async with site(log, stages=STAGES, windows=HOURS) as here:
        for _ in range(40):
            assert (await here.ask())[0] == 200
        await here.written()
        status = await here.status()
        assert status["stage"] == 0 and "windows only: mon-fri 09:00-16:00" in status["waiting"]
        clock["now"] = MONDAY.replace(hour=9)
        await until(lambda: here.ledger.state.stage == 1)
        clock["now"] = MONDAY.replace(hour=17)
        await until(lambda: not here.ledger.state.open)
        assert here.ledger.state.status == "running"
    assert [row["open"] for row in events_of(log) if row["event"] == "window"] == [True, False]
    monkeypatch.undo()  # whatever the calendar says when it is replayed
    assert [row["action"] for row, _ in replay(events_of(log))] == ["promote"]


@in_loop
async def test_harm_and_people_wait_for_no_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "datetime", _clock({"now": MONDAY}))
    async with site(tmp_path / "a.jsonl", stages=STAGES, windows=HOURS) as here:
        assert (await here.do("promote", stage=0))[1]["stage"] == 1
    async with site(tmp_path / "b.jsonl", candidate=answers(whole("")), stages=STAGES, windows=HOURS) as here:
        for _ in range(60):
            await here.ask()
        await until(lambda: here.ledger.state.status == "rolled back")


def test_a_simulation_has_no_calendar() -> None:
    stages = [{"share": 0.5, "min_units": 60}]
    plan = plan_of(
        {"name": "chat", "unit": "request", "stages": stages, "guardrails": GUARDRAILS, "windows": HOURS}
    )
    assert (
        simulate(plan, Traffic(6000, 10**6, 10, Behaviour({"error": 0.01, "empty": 0.0}, (0.0, 0.5)))).status
        == "promoted"
    )


def _clock(at: dict[str, datetime]) -> Any:
    class Calendar(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return at["now"]

    return Calendar
