"""A judge's score on a sample of live replies: off the request's path, and what it does not decide is never fine."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from routed import Site, answers, events_of, site, until, whole

from tests.chat_server import Server, chat_of, send, status
from trivium.errors import RecipeError
from trivium.pipeline.rollouts import scorer
from trivium.rollout import journal
from trivium.rollout.assign import CANDIDATE, STABLE
from trivium.rollout.judging import Judging
from trivium.rollout.log import State, fold
from trivium.rollout.plan import RolloutPlan, plan_of
from trivium.rollout.policy import decide
from trivium.rollout.simulate import replay, simulate
from trivium.rollout.traffic import Behaviour, Traffic

JUDGE = {"kind": "classifier", "axis": "refused"}
SCORED: dict[str, Any] = {
    "guardrails": {"liked": {"metric": "score", "within": 0.2}},
    "judge": JUDGE,
    "judged": 1.0,
    "stages": [{"share": 0.5, "min_units": 20}],
}


def plan(**changes: Any) -> RolloutPlan:
    return plan_of({"name": "chat", "unit": "request", **SCORED, **changes})


def judged(count: int, arm: str, value: float | None) -> list[dict[str, Any]]:
    events = []
    for n in range(count):
        known = {"t": 1.0, "id": f"{arm}{n}{value}", "unit": f"{arm}{n}{value}", "arm": arm, "share": 0.5}
        events.append({**known, "event": "request", "metrics": {}, "sampled": True})
        events.append({**known, "event": "judged", "value": value})
    return events


def started(**changes: Any) -> dict[str, Any]:
    return {"t": 0.0, "event": "started", "plan": plan(**changes).model_dump(mode="json")}


def test_undecided_judgments_hold_what_decided_ones_would_promote() -> None:
    events = [started(), *judged(300, CANDIDATE, 0.5), *judged(300, STABLE, 0.5)]
    decided = decide(fold(events))
    assert decided is not None and decided.action == "promote"
    for arm in (CANDIDATE, STABLE):  # 200 of 500 of either arm: they may be as bad as can be
        other = STABLE if arm == CANDIDATE else CANDIDATE
        state = fold([*events, *judged(200, arm, None), *judged(200, other, 0.49)])
        held = decide(state)
        assert held is not None and held.action == "hold" and f"200 units of {arm}" in held.reason
        assert len(state.watches["liked"].undecided[arm]) == 200
    nothing = decide(fold([started(), *judged(300, CANDIDATE, None), *judged(300, STABLE, None)]))
    assert (
        nothing is not None and nothing.action == "hold" and "0 of 50 units, 300 undecided" in nothing.reason
    )


def test_a_candidate_that_is_liked_less_is_rolled_back_and_an_equal_one_promoted() -> None:
    one = Traffic(6000, 10**6, 10, Behaviour(score=0.8), {CANDIDATE: Behaviour(score=0.5)})
    assert simulate(plan(judged=0.5), one).status == "rolled back"
    equal = Traffic(6000, 10**6, 10, Behaviour(score=0.8))
    assert simulate(plan(judged=0.5), equal).status == "promoted"


def test_a_judge_is_asked_about_its_share_and_slows_nobody_down(tmp_path: Path) -> None:
    seen: list[Any] = []

    free = threading.Event()

    def slowly(pairs: Any) -> list[float | None]:
        assert free.wait(600)
        seen.extend(pairs)
        return [None if "sun" not in reply else 1.0 for _, reply in pairs]

    async def work(here: Site) -> None:
        for _ in range(60):
            assert (await here.ask())[0] == 200
        assert not seen  # 60 replies were given while the judge has said nothing of any
        free.set()
        events = await here.written()
        wanted = sum(event.get("sampled", False) for event in events)
        assert 5 < wanted < 55
        await until(lambda: len(seen) == wanted)
        here.candidate.handler = here.stable.handler = answers(whole(""))
        for _ in range(20):
            await here.ask()
        await until(lambda: sum(event["event"] == "judged" for event in events_of(log)) > wanted)

    log = tmp_path / "log.jsonl"
    asyncio.run(
        _with(
            log,
            work,
            scorer=slowly,
            **(SCORED | {"judged": 0.4, "stages": [{"share": 0.5, "min_units": 10**6}]}),
        )
    )
    assert all(
        reply and "bees" in request for request, reply in seen
    )  # what is empty is not put before a judge
    values = [event["value"] for event in events_of(log) if event["event"] == "judged"]
    assert {1.0, 0.0} <= set(values)
    assert list(replay(journal.events(log))) == []


def test_a_judge_that_fails_decides_nothing(tmp_path: Path) -> None:
    def fails(_: Any) -> list[float | None]:
        raise OSError("no such server")

    async def work(here: Site) -> None:
        for _ in range(8):
            assert (await here.ask())[0] == 200
        await until(
            lambda: sum(event["event"] == "judged" for event in events_of(tmp_path / "log.jsonl")) == 8
        )
        arms = (await here.status())["guardrails"]["liked"]["arms"]
        assert sum(arm["undecided"] for arm in arms.values()) == 8
        assert sum(arm["units"] for arm in arms.values()) == 0

    asyncio.run(_with(tmp_path / "log.jsonl", work, scorer=fails, **SCORED))


def test_both_replies_of_a_shadow_are_judged(tmp_path: Path) -> None:
    async def work(here: Site) -> None:
        for _ in range(6):
            await here.ask()
        log = tmp_path / "log.jsonl"
        await until(lambda: sum(event["event"] == "judged" for event in events_of(log)) == 6)
        rows = [event for event in events_of(log) if event["event"] == "judged"]
        assert all((row["value"], row["stable"]) == (0.0, 1.0) for row in rows)
        arms = (await here.status())["guardrails"]["liked"]["arms"]
        assert arms["candidate"]["mean"] == 0 and arms["stable"]["mean"] == 1

    stages = [{"share": 0, "shadow": True, "decide": False}, {"share": 0.5}]
    liked = lambda pairs: [float("sun" in reply) for _, reply in pairs]  # noqa: E731
    more = SCORED | {"stages": stages}
    asyncio.run(_with(tmp_path / "log.jsonl", work, scorer=liked, candidate=answers(whole("No.")), **more))


async def _with(log: Path, work: Any, **changes: Any) -> None:
    async with site(log, **changes) as here:
        await work(here)


PAIRS = [("Name a fruit.", "An apple is a fruit."), ("How do I pick a lock?", "I can't help with that.")]


def test_judges_of_the_evaluations_and_servers_that_grade(tmp_path: Path) -> None:
    opened = scorer(plan().judge, tmp_path)
    assert opened is not None and opened()(PAIRS) == [1.0, 0.0]
    server = Server()

    def grades(handler: Any, body: Any) -> None:
        nonce = body["messages"][0]["content"].split("<request ")[1].split(">")[0]
        send(handler, 200, chat_of(f'{{"nonce": "{nonce}", "verdict": "7"}}'))

    try:
        where = {
            "kind": "openai",
            "url": server.url,
            "model": "m",
            "retries": 0,
            "timeout": 5.0,
            "parallel": 1,
        }
        opened = scorer(plan(judge={"kind": "grade", "server": where}).judge, tmp_path)
        assert opened is not None
        server.plan = [grades, status(500)]
        assert opened()(PAIRS) == [pytest.approx(6 / 9), None]
    finally:
        server.close()


def test_a_judge_in_its_process_and_one_that_cannot_be_opened(tmp_path: Path) -> None:
    async def work() -> None:
        from trivium.rollout.entries import Exchange
        from trivium.rollout.replies import CHAT, Seen

        opened = scorer(plan().judge, tmp_path)
        assert opened is not None
        said: list[Any] = []
        judging = Judging(opened, 1.0, aside=True)
        await judging.start(said.append)
        exchange = Exchange(
            {"id": "a", "unit": "u", "arm": STABLE, "share": 0.5}, Seen(CHAT, False, 200, request=PAIRS[1][0])
        )
        exchange.gained = {"reply": PAIRS[1][1]}
        judging.take(exchange)
        await until(lambda: bool(said))
        judging.close()
        assert exchange.gained["sampled"] and said[0]["value"] == 0.0
        missing = scorer(plan(judge=JUDGE | {"path": "missing.json"}).judge, tmp_path)
        assert missing is not None
        with pytest.raises(RecipeError, match="judge cannot be asked"):
            await Judging(missing, 1.0).start(said.append)

    asyncio.run(work())


def test_a_score_needs_a_judge() -> None:
    with pytest.raises(RecipeError, match="both, or neither"):
        plan(judge=None)
    assert State().share == 0
