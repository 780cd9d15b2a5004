"""Several candidates at once: each beside stable alone, with its share of the units that fall to it or to stable."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from routed import Arm, answers, events_of, in_loop, site, until, whole

from trivium.cli.app import main
from trivium.errors import ArtifactError, RecipeError
from trivium.rollout.assign import STABLE, beside_stable
from trivium.rollout.entries import Refused, done_already
from trivium.rollout.evidence import Flips
from trivium.rollout.log import PROMOTED, ROLLED_BACK, State, fold
from trivium.rollout.plan import plan_of
from trivium.rollout.policy import decide
from trivium.rollout.power import needs
from trivium.rollout.simulate import replay, simulate, verdict
from trivium.rollout.status import status_of
from trivium.rollout.traffic import Behaviour, Traffic

SHARES = {"short": 0.2, "warm": 0.3}
PLAN: dict[str, Any] = {
    "name": "chat",
    "unit": "request",
    "stages": [{"share": {"short": 0.05, "warm": 0.1}, "min_units": 20, "decide": False}, {"share": SHARES}],
    "guardrails": {
        "errors": {"metric": "error", "within": 0.05},
        "liked": {"metric": "thumbs", "within": 0.1},
    },
    "goal": "liked",
}
LAST = PLAN | {"stages": [{"share": SHARES, "min_units": 10}]}


def started(plan: dict[str, Any] = LAST) -> dict[str, Any]:
    return {"t": 0.0, "event": "started", "plan": plan}


def request(name: str, arm: str, share: Any = None, **metrics: float) -> dict[str, Any]:
    known = {"t": 1.0, "event": "request", "id": name, "unit": name, "arm": arm, "metrics": metrics}
    return known | {"share": SHARES if share is None else share}


SERVED = {"short": 320, "warm": 480, STABLE: 800}


def served(counts: dict[str, int], **metrics: float) -> list[dict[str, Any]]:
    """Requests of every arm; the names tell calls with other metrics apart."""
    return [
        request(f"{arm}-{n}-{sorted(metrics.items())}", arm, **metrics)
        for arm, count in counts.items()
        for n in range(count)
    ]


def applied(state: State, events: list[dict[str, Any]]) -> State:
    for event in events:
        state.apply(event)
    return state


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from((*SHARES, STABLE)), st.booleans(), st.booleans()), max_size=60))
def test_each_candidate_is_a_coin_among_its_own_units_and_those_of_stable(found: list[tuple]) -> None:
    """Whatever the other arms do. The share is the one of the moment: some were assigned in the stage before."""
    state = fold([started(PLAN)])
    expected = {name: Flips(state.watches[f"{name}: errors"].limit) for name in SHARES}
    for n, (arm, bad, later) in enumerate(found):
        weights = SHARES if later else PLAN["stages"][0]["share"]
        state.apply(request(str(n), arm, weights, error=int(bad)))
        for name, flips in expected.items():
            if bad and arm in (name, STABLE):
                share = weights[name] / (weights[name] + 1 - sum(weights.values()))
                flips.add(arm == name, share)
    for name, flips in expected.items():
        assert state.watches[f"{name}: errors"].harm == pytest.approx(float(flips.log_e), abs=1e-9)


def test_alpha_is_shared_among_candidates_times_guardrails() -> None:
    state = fold([started()])
    rows = status_of(state, 0.0)["guardrails"]
    assert set(rows) == {"short: errors", "warm: errors", "short: liked", "warm: liked"}
    assert {row["harm"]["limit"] for row in rows.values()} == {math.log(4 / 0.05)}
    assert {row["proof"]["limit"] for row in rows.values()} == {math.log(2 / 0.05)}


def broken() -> tuple[State, list[dict[str, Any]]]:
    """`short` answers nothing but errors until the policy has seen enough."""
    state, log = State(), [started(), *served({STABLE: 60, "warm": 20}, error=0)]
    applied(state, log)
    for n in range(60):
        log.append(request(f"bad-{n}", "short", error=1))
        state.apply(log[-1])
        decision = decide(state)
        assert decision is not None
        if decision.action == "roll back":
            log.append(verdict(state, decision))
            state.apply(log[-1])
            return state, log
    raise AssertionError("nothing was rolled back")


def test_one_is_rolled_back_and_the_other_goes_on_undisturbed() -> None:
    state, log = broken()
    assert log[-1]["arm"] == "short" and log[-1]["reason"].startswith("short: errors")
    assert state.status == "running" and state.living == ["warm"] and state.out == {"short"}
    assert state.share == pytest.approx(0.3)
    before = state.watches["warm: errors"].harm, dict(state.units)
    more = [request(f"of-short-{n}", STABLE, error=1) | {"instead_of": "short"} for n in range(50)]
    applied(state, more)
    assert (state.watches["warm: errors"].harm, dict(state.units)) == before  # its units prove nothing
    applied(state, [request("late", "short", error=1)])  # it had been on its way
    assert dict(state.units) == before[1]
    log += [*more, *served({"warm": 40}, error=1)]
    applied(state, log[-40:])
    decision = decide(state)
    assert decision is not None and (decision.action, decision.arm) == ("roll back", "warm")
    log.append(verdict(state, decision))
    state.apply(log[-1])
    assert state.status == ROLLED_BACK and state.share == 0.0
    assert [row["arm"] for row, _ in replay(log)] == ["short", "warm"]
    with pytest.raises(ArtifactError, match="'roll back warm'"):
        list(
            replay(
                [
                    row | {"arm": "warm"} if row.get("arm") == "short" and row["event"] == "verdict" else row
                    for row in log
                ]
            )
        )


def proven() -> State:
    """No errors; `warm` is liked by all, the others by nine in ten."""
    state = fold([started(), *served(SERVED, error=0)])
    for arm in (*SHARES, STABLE):
        for n in range(SERVED[arm]):
            liked = float(arm == "warm" or n % 10 > 0)
            name = f"{arm}-{n}-{[('error', 0)]}"
            state.apply({"t": 2.0, "event": "feedback", "id": name, "metric": "thumbs", "value": liked})
    return state


def test_the_best_in_the_goal_gets_everything_once_all_are_decided() -> None:
    state = proven()
    decision = decide(state)
    assert decision is not None and (decision.action, decision.arm) == ("promote", "warm")
    assert "warm of 2 by liked" in decision.reason and "short +0 (" in decision.reason
    state.apply(verdict(state, decision))
    assert state.status == PROMOTED and state.weights == {"short": 0.0, "warm": 1.0} and state.share == 1.0
    assert status_of(state, 9.0)["candidates"]["warm"] == {"status": "promoted", "share": 1.0}
    state.apply(
        {
            "t": 10.0,
            "event": "verdict",
            "action": "roll back",
            "reason": "x",
            "by": "ann",
            "stage": 0,
            "arm": "warm",
        }
    )
    assert state.status == ROLLED_BACK and state.share == 0


def test_one_that_is_not_decided_yet_holds_the_others() -> None:
    state = fold([started(), *served({"short": 30, "warm": 60, STABLE: 90}, error=0, thumbs=1)])
    decision = decide(state)
    assert (
        decision is not None
        and decision.action == "hold"
        and "short: errors of short: 30 of 50" in decision.reason
    )


def test_a_person_says_which_one_is_meant() -> None:
    state = proven()
    with pytest.raises(Refused, match="short or warm"):
        done_already(state, "promote", None)
    with pytest.raises(Refused, match="no candidate cold"):
        done_already(state, "roll back", None, "cold")
    with pytest.raises(Refused, match="about all"):
        done_already(state, "hold", None, "warm")
    assert not done_already(state, "promote", 0, "warm") and not done_already(state, "roll back", None)
    early = fold([started(PLAN)])
    with pytest.raises(Refused, match="goes on with the others"):
        done_already(early, "promote", 0, "warm")
    state, _ = broken()
    assert done_already(state, "roll back", None, "short") and not done_already(state, "promote", None)
    with pytest.raises(Refused, match="was rolled back"):
        done_already(state, "promote", None, "short")


def test_units_that_fall_otherwise_than_planned_are_seen_beside_stable() -> None:
    decision = decide(fold([started(), *served({"short": 100, "warm": 900, STABLE: 900}, error=0)]))
    assert decision is not None and decision.action == "hold" and "sample ratio" in decision.reason


CALM = Behaviour({"error": 0.01, "thumbs": 0.8}, (0.0, 0.5))
TRAFFIC = Traffic(6000, 10**6, 10, CALM)


def test_simulation_catches_the_bad_one_and_promotes_the_good_one() -> None:
    worse = dataclasses.replace(TRAFFIC, candidates={"short": Behaviour({"error": 0.2, "thumbs": 0.8})})
    found = simulate(plan_of(PLAN), worse)
    assert (found.status, found.chosen, found.out) == (PROMOTED, "warm", {"short"})
    again = simulate(plan_of(PLAN), worse)
    assert again == found
    ends = [
        simulate(plan_of(PLAN), dataclasses.replace(TRAFFIC, requests=3000, seed=seed)) for seed in range(12)
    ]
    assert sum(bool(end.out) for end in ends) <= 2  # alike: 5% may be rolled back


def test_power_counts_the_units_of_all_arms() -> None:
    """What falls to the candidate or to stable is 70% and 80% of the units; alpha is shared among twice as many."""
    rows = {(need.stage, need.candidate): need for need in needs(plan_of(PLAN)) if need.guardrail == "errors"}
    alone = plan_of(LAST | {"stages": [{"share": beside_stable(SHARES, "warm")}], "goal": None})
    one = next(need for need in needs(alone) if need.guardrail == "errors")
    ours = rows[1, "warm"]
    assert (
        ours.share == 0.3
        and ours.twice > one.twice / 0.8
        and ours.proof is not None
        and one.proof is not None
    )
    assert ours.proof > one.proof / 0.8 and rows[0, "short"].proof is None
    assert 1 < ours.least < 30 and rows[0, "short"].least > ours.least


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"goal": None}, "name as `goal`"),
        ({"goal": "nothing"}, "name as `goal`"),
        ({"stages": [{"share": {"short": 0.7, "warm": 0.4}}]}, "add up to 1.1"),
        ({"stages": [{"share": {"stable": 0.7, "warm": 0.1}}]}, "stable arm has no weight"),
        ({"stages": [{"share": {"short": 0.5, "warm": 0.5}}]}, "stable a rest"),
        ({"stages": [{"share": {"short": 0.5, "warm": -0.1}}]}, "greater than or equal to 0"),
        ({"stages": [{"share": {"short": 0.2, "warm": 0.1}}, {"share": {"short": 0.1, "warm": 0.3}}]}, "must not fall"),
        ({"stages": [{"share": {"short": 0.1, "warm": 0.1}}, {"share": {"warm": 0.1, "short": 0.1}}]}, "same candidates"),
        ({"arms": {"stable": {"url": "http://a"}, "short": {"url": "http://b"}}}, "the stages ask for stable, short, warm"),
        ({"stages": [{"share": 0.5}]}, "there is one"),
        (
            {"arms": {name: {"url": "http://a", "artifact": "x"} for name in ("stable", "short", "warm")}},
            "are a candidate's",
        ),
    ],
)  # fmt: skip
def test_plans_that_cannot_work_are_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        plan_of(PLAN | change)


@in_loop
async def test_the_router_takes_one_away_and_nobody_else_moves(tmp_path: Path) -> None:
    """Sixty users, before and after: those of the bad arm go to stable, the others stay; none is answered by it again."""
    stages = [{"share": {"short": 0.3, "warm": 0.3}, "min_units": 10_000}]
    bad = answers(whole(""))  # nothing in it
    guardrails = {"empty": {"metric": "empty", "within": 0.05}}
    several = {"unit": "user", "stages": stages, "guardrails": guardrails, "goal": "empty"}
    arms = {"short": Arm(bad), "warm": Arm(answers(whole("warm words")))}
    async with site(tmp_path / "log.jsonl", candidates=arms, **several) as here:
        users = [f"user-{n}" for n in range(60)]
        for user in users:
            assert (await here.ask(user))[0] == 200
        await until(lambda: "short" in here.ledger.split.out)
        assert here.ledger.state.living == ["warm"] and here.ledger.share == pytest.approx(0.3)
        count = len(arms["short"].seen)
        warm = len(arms["warm"].seen)
        for user in users:
            status, body, _ = await here.ask(user)
            assert status == 200 and body != whole("")
        assert len(arms["short"].seen) == count and len(arms["warm"].seen) == 2 * warm
        told = await here.status()
        assert told["candidates"]["short"] == {"status": "rolled back", "share": 0.0}
        assert set(told["arms"]) == {"stable", "short", "warm"} and told["share"] == pytest.approx(0.3)
        status, said = await here.do("promote")
        assert status == 200 and said["chosen"] == "warm" and said["share"] == 1.0  # only one is left
        assert (await here.ask("anybody"))[1] == whole("warm words")
        assert (await here.do("rollback", arm="cold"))[0] == 409
        log = await here.written()
        found: dict[str, set[str]] = {}
        for event in log[:120]:
            if event["event"] == "request":
                found.setdefault(event["unit"], set()).add(event.get("instead_of", event["arm"]))
        assert len(found) == 60 and all(len(arms_of) == 1 for arms_of in found.values())
    assert [row["action"] for row, _ in replay(events_of(tmp_path / "log.jsonl"))] == ["roll back", "promote"]


@in_loop
async def test_a_shadow_stage_asks_every_candidate(tmp_path: Path) -> None:
    stages = [
        {"share": {"short": 0, "warm": 0}, "shadow": True, "min_units": 5},
        {"share": SHARES, "min_units": 10_000},
    ]
    guardrails = {"empty": {"metric": "empty", "within": 0.05}}
    arms = {"short": Arm(answers(whole(""))), "warm": Arm()}
    several = {"stages": stages, "guardrails": guardrails, "goal": "empty"}
    async with site(tmp_path / "log.jsonl", candidates=arms, **several) as here:
        for n in range(20):
            assert (await here.ask(str(n)))[0] == 200
            await until(lambda: not here.router.active)
        await until(lambda: "short" in here.ledger.split.out)
        assert len(arms["warm"].seen) >= 10 and len(here.stable.seen) >= 12
        assert here.ledger.state.living == ["warm"]


def test_commands_name_the_candidate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(
        "name: chat\nunit: request\ngoal: errors\nstages: [{share: {short: 0.2, warm: 0.2}, min_units: 50}]\n"
        "guardrails: {errors: {metric: error, within: 0.05}}\n"
    )
    words = [
        "simulate",
        str(path),
        "--rate",
        "error=0.01",
        "--candidate",
        "short:error=0.2",
        "--runs",
        "3",
        "--requests",
        "3000",
    ]
    with pytest.raises(SystemExit) as stopped:
        main(["rollout", *words])
    said = capsys.readouterr().out
    assert (
        stopped.value.code == 0 and "promoted warm: 3 of 3" in said and "short: rolled back in 3 of 3" in said
    )
    with pytest.raises(SystemExit) as stopped:
        main(["rollout", "power", str(path)])
    assert stopped.value.code == 0 and "warm: errors" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        main(["rollout", "simulate", str(path), "--candidate", "cold:error=0.2"])
    assert stopped.value.code != 0 and "short, warm" in capsys.readouterr().err
