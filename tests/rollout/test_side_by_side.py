"""Two replies side by side: the second is stable's, so that who keeps an arm can compare both. Choices make a win rate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from routed import CHAT, Site, answers, events_of, in_loop, site, until, whole

from trivium.cli import main
from trivium.rollout.log import fold
from trivium.rollout.simulate import replay

LIKED: dict[str, Any] = {"guardrails": {"liked": {"metric": "lost", "within": 0.2}}}
STAGES = [{"share": 0.5, "min_units": 10_000}]


async def compare(here: Site, unit: str, **more: Any) -> tuple[str, str]:
    """Names of a user's reply and of the one beside it."""
    body = {"user": unit, "messages": [{"role": "user", "content": "Why is the sea salty?"}], **more}
    names = []
    for headers in ({}, {"x-trivium-beside": "yes"}):
        async with here.http.post(here.url + CHAT, json=body, headers=headers) as response:
            assert response.status == 200
            names.append(response.headers["x-trivium-request"])
    return names[0], names[1]


async def choose(here: Site, better: str, over: str) -> int:
    async with here.http.post(f"{here.url}/v1/feedback", json={"id": better, "over": over}) as response:
        return response.status


@in_loop
async def test_a_user_who_chooses_again_and_again_is_one_coin(tmp_path: Path) -> None:
    """Sticky users: the candidate's get stable's reply beside theirs, stable's get two of stable's. As many choices of each
    count as the plan says."""
    log = tmp_path / "log.jsonl"
    async with site(log, unit="user", stages=STAGES, cap=4, **LIKED) as here:
        codes, loud = [], 0
        for user in ("ann", "bob", "cid", "dan", "eve", "fay"):
            before = len(here.candidate.seen)
            mine, beside = await compare(here, user)
            tried = len(here.candidate.seen) > before
            loud += tried
            for turn in range(7):
                if turn:
                    mine, beside = await compare(here, user)
                codes.append(await choose(here, beside, mine))
            # not one request more than its own reaches the candidate, and none of a user of stable
            assert len(here.candidate.seen) - before == (7 if tried else 0)
        assert 0 < loud < 6 and codes == ([200] * 4 + [429] * 3) * 6
        status = await here.status()
        liked = status["guardrails"]["liked"]
        assert liked["bad_units"] == {"candidate": loud, "stable": 0}  # all of them like stable better
        assert liked["arms"]["candidate"]["units"] == loud and status["status"] == "running"
        assert sum(status["units"].values()) == 6  # a reply beside another is no unit of stable's
    assert sum(row.get("beside", False) for row in events_of(log)) == 6 * 7


@in_loop
async def test_choices_of_many_users_roll_back_what_they_like_less(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    async with site(log, unit="user", stages=STAGES, **LIKED) as here:
        for number in range(60):
            mine, beside = await compare(here, f"user-{number}")
            await choose(here, beside, mine)
            if here.ledger.share == 0:
                break
        await until(lambda: here.ledger.share == 0)
        assert "liked: " in (await here.status())["verdicts"][-1]["reason"]
        reached = len(here.candidate.seen)
        assert reached < 30
        await compare(here, "user-0")
        assert len(here.candidate.seen) == reached
    assert [row["action"] for row, _ in replay(events_of(log))] == ["roll back"]


@in_loop
async def test_what_is_beside_proves_nothing_else(tmp_path: Path) -> None:
    """Stable's empty replies to users of the candidate are no harm of either, and stand in no mean."""
    guardrails = LIKED["guardrails"] | {"empty": {"metric": "empty", "within": 0.1}}
    log = tmp_path / "log.jsonl"
    async with site(
        log,
        answers(whole("")),
        unit="user",
        stages=[{"share": 1.0, "min_units": 10_000}],
        guardrails=guardrails,
    ) as here:
        for number in range(20):
            await compare(here, f"user-{number}")
        await here.written()
        empty = (await here.status())["guardrails"]["empty"]
        assert empty["bad_units"] == {"candidate": 0, "stable": 0}
        assert (empty["arms"]["candidate"]["units"], empty["arms"]["stable"]["units"]) == (20, 0)
    assert fold(events_of(log)).units == {"candidate": 20, "stable": 0}


@pytest.mark.parametrize("unit", ["user", "request"])
def test_a_choice_is_a_preference_whatever_the_unit(
    unit: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    count = iter(range(1000))

    async def numbered(request: Any, body: dict[str, Any]) -> Any:
        return await answers(whole(f"Reply {next(count)}."))(request, body)

    @in_loop
    async def work() -> None:
        async with site(
            tmp_path / "log.jsonl", numbered, numbered, texts=tmp_path / "texts.jsonl", unit=unit
        ) as here:
            for number in range(3):
                mine, beside = await compare(here, f"user-{number}", metadata={"consent": "yes"})
                assert await choose(here, mine, beside) == 200
            await here.written()

    work()
    words = ["--texts", str(tmp_path / "texts.jsonl"), "--out", str(tmp_path / "out.jsonl")]
    with pytest.raises(SystemExit) as stopped:
        main(["feedback", "export", str(tmp_path / "log.jsonl"), *words, "--kind", "preferences"])
    assert not stopped.value.code, capsys.readouterr()
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(row["chosen"], row["rejected"]) for row in rows] == [
        (f"Reply {2 * n}.", f"Reply {2 * n + 1}.") for n in range(3)
    ]
