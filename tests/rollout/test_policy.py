"""What a plan decides, from logs: nothing without numbers, harm at once, promotion on proof, and the same again on replay."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trivium.errors import ArtifactError, DataError, RecipeError
from trivium.rollout.assign import CANDIDATE, STABLE
from trivium.rollout.log import PROMOTED, ROLLED_BACK, State, fold
from trivium.rollout.plan import load_plan, plan_of
from trivium.rollout.policy import decide
from trivium.rollout.simulate import replay, simulate, verdict
from trivium.rollout.traffic import Behaviour, Harm, Recorded, Traffic, recorded

COST = {"money": {"metric": "cost", "within": 0.001, "tau": 0.001}}
PRICED = {"url": "http://a", "price": {"input": 1, "output": 2}}
PLAN = {
    "name": "chat",
    "unit": "request",
    "stages": [{"share": 0.2, "min_units": 20, "decide": False}, {"share": 0.5, "min_units": 100}],
    "guardrails": {
        "errors": {"metric": "error", "within": 0.05},
        "empty": {"metric": "empty"},
        "latency": {"metric": "log_latency", "tau": 0.1},
    },
}
GOOD = {"error": 0, "empty": 0, "log_latency": 0.1}


def started(**changes) -> list[dict]:
    return [{"t": 0.0, "event": "started", "plan": PLAN | changes, "candidate": {"path": "x"}}]


def requests(count: int, arm: str, metrics: dict, begin: float = 1.0, prefix: str = "") -> list[dict]:
    return [
        {
            "t": begin + n,
            "event": "request",
            "id": f"{prefix}{arm}{n}",
            "unit": f"{prefix}{arm}{n}",
            "arm": arm,
            "metrics": metrics,
        }
        for n in range(count)
    ]


def test_no_traffic_is_no_verdict() -> None:
    decision = decide(fold(started()))
    assert decision.action == "hold" and "0 of 20" in decision.reason


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), "12"])
def test_what_is_no_number_holds_and_says_so(value: object) -> None:
    only = {"stages": [{"share": 0.5, "min_units": 100}]}
    events = started(**only)
    for arm in (CANDIDATE, STABLE):
        events += requests(300, arm, {"error": value, "empty": value, "log_latency": value})
    decision = decide(fold(events))
    assert decision.action == "hold"
    assert "0 of 50 units" in decision.reason and "300 replies without a number" in decision.reason


def test_a_metric_that_is_missing_from_one_arm_holds() -> None:
    events = started(stages=[{"share": 0.5, "min_units": 100}])
    events += requests(300, CANDIDATE, {"empty": 0}) + requests(300, STABLE, GOOD)
    decision = decide(fold(events))
    assert decision.action == "hold" and "errors of candidate: 0 of 50" in decision.reason


def test_four_good_replies_and_a_failed_one_roll_nothing_back() -> None:
    events = started() + requests(4, CANDIDATE, GOOD) + requests(1, CANDIDATE, GOOD | {"error": 1}, 5.0, "x")
    assert decide(fold(events)).action == "hold"


def test_an_arm_of_empty_replies_is_rolled_back_within_twenty() -> None:
    state = fold(started())
    for event in requests(20, CANDIDATE, GOOD | {"empty": 1}):
        state.apply(event)
        decision = decide(state)
        if decision.action == "roll back":
            break
    assert decision.action == "roll back" and "empty" in decision.reason
    state.apply(verdict(state, decision))
    assert state.status == ROLLED_BACK and state.share == 0.0
    assert decide(state) is None


def test_a_clock_that_jumps_back_turns_no_time_back() -> None:
    events = started(stages=[{"share": 0.5, "min_units": 1, "min_time": "100s"}])
    events += requests(1, CANDIDATE, GOOD, 90.0) + requests(1, STABLE, GOOD, -1000.0)
    assert (
        "89 of 100 seconds" in decide(fold([*events, {"t": 89.0, "event": "tick"}])).reason
        or "90 of 100" in decide(fold(events)).reason
    )


def test_overdue_calls_a_person_and_does_not_promote() -> None:
    events = started(stages=[{"share": 0.5, "min_units": 1000, "max_time": "60s"}])
    events += [*requests(5, CANDIDATE, GOOD), {"t": 61.5, "event": "tick"}]
    decision = decide(fold(events))
    assert decision.action == "hold" and decision.call and "5 of 1000" in decision.reason


def test_units_in_wrong_shares_hold() -> None:
    events = started(stages=[{"share": 0.5, "min_units": 10}])
    events += requests(1400, CANDIDATE, GOOD) + requests(600, STABLE, GOOD)
    decision = decide(fold(events))
    assert decision.action == "hold" and "sample ratio" in decision.reason and decision.call


def test_feedback_joins_once_and_is_capped() -> None:
    events = started(
        unit="user", cap=2, guardrails=PLAN["guardrails"] | {"thumbs": {"metric": "thumbs_down"}}
    )
    events += [
        {"t": n, "event": "request", "id": str(n), "unit": "ann", "arm": CANDIDATE, "metrics": GOOD}
        for n in range(5)
    ]
    for number in (0, 0, 1, 2, 3):
        events.append({"t": 9, "event": "feedback", "id": str(number), "metric": "thumbs_down", "value": 1})
    events.append({"t": 9, "event": "feedback", "id": "unknown", "metric": "thumbs_down", "value": 1})
    state = fold(events)
    assert state.unmatched == 1 and state.capped == 2
    assert int(state.watches["thumbs"].flips.candidate) == 1  # one loud user is one event


def choices(count: int, lost: int, **changes) -> State:
    """Of `count` users who saw a reply of each arm, `lost` liked the candidate's less."""
    liked = {"liked": {"metric": "lost", "within": 0.1}}
    events = started(stages=[{"share": 0.5, "min_units": 50}], guardrails=liked, **changes)
    events += requests(count, CANDIDATE, GOOD) + requests(count, STABLE, GOOD)
    for n in range(count):
        is_lost = (n + 1) * lost // count > n * lost // count  # spread evenly
        better, worse = (STABLE, CANDIDATE) if is_lost else (CANDIDATE, STABLE)
        choice = {"t": 9e3, "event": "choice", "id": f"{better}{n}", "over": f"{worse}{n}"}
        events += [choice, choice]  # sent twice
    events.append(
        {"t": 9e3, "event": "choice", "id": f"{STABLE}0", "over": f"{STABLE}1"}
    )  # says nothing of the candidate
    return fold(events)


def test_the_win_rate_of_choices_promotes_and_rolls_back() -> None:
    """Against scipy: by chance alone as many would be lost once in more than 1/alpha times; a fair share proves nothing."""
    from scipy.stats import binomtest

    worse = choices(200, 125)
    decision = decide(worse)
    assert decision.action == "roll back" and "125 units of the candidate and 75 of stable" in decision.reason
    assert binomtest(125, 200, alternative="greater").pvalue < 0.05
    even = decide(choices(80, 40))
    assert even.action == "hold" and "liked differs by +0 " in even.reason
    better = decide(choices(800, 380))
    assert better.action == "promote" and "liked within 0.1" in better.reason
    assert binomtest(380, 800, 0.6, alternative="less").pvalue < 0.05
    assert decide(choices(30, 0)).reason.startswith("waiting: ")


CALM = Behaviour({"error": 0.01, "empty": 0.0}, (0.0, 0.5))
TRAFFIC = Traffic(requests=6000, users=10**6, per_second=10, stable=CALM)


def test_a_good_candidate_is_promoted_and_a_bad_one_is_not() -> None:
    plan = plan_of(PLAN)
    good = simulate(plan, TRAFFIC)
    bad = simulate(
        plan, dataclasses.replace(TRAFFIC, candidates={CANDIDATE: Behaviour({"error": 0.2, "empty": 0.0})})
    )
    assert good.status == PROMOTED and "errors within 0.05" in good.reason
    assert bad.status == ROLLED_BACK and bad.candidate_requests < 200


def test_arms_that_never_fail_are_promoted() -> None:
    never = Behaviour({"error": 0.0, "empty": 0.0}, (0.0, 0.5))
    found = simulate(plan_of(PLAN), dataclasses.replace(TRAFFIC, stable=never))
    assert found.status == PROMOTED and "errors within 0.05" in found.reason


def test_one_loud_user_in_a_hundred_rolls_nothing_back() -> None:
    """Five of five hundred users fail on every request, in either arm: per request, a third of such rollouts would end."""
    plan = plan_of(PLAN | {"unit": "user", "stages": [{"share": 0.5, "min_units": 10**6}]})
    sticky = Behaviour({"error": 0.0, "empty": 0.0}, failing=0.01)
    ends = [
        simulate(plan, Traffic(2000, 500, 10, sticky, seed=seed)).status == ROLLED_BACK for seed in range(6)
    ]
    assert sum(ends) <= 1


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.05, 0.3]))
def test_replay_says_the_same(seed: int, rate: float) -> None:
    """Whatever the traffic, and through JSON: the verdicts follow from the events, and a changed verdict is noticed."""
    plan, state = plan_of(PLAN), State()
    events = [{"t": 0.0, "event": "started", "plan": plan.model_dump(mode="json")}]
    state.apply(events[0])
    from trivium.seeds import generator

    random = generator(seed, "test")
    for number in range(400):
        arm = CANDIDATE if random.random() < max(state.share, 0.05) else STABLE
        bad = int(random.random() < (rate if arm == CANDIDATE else 0.01))
        event = {"t": float(number), "event": "request", "id": str(number), "unit": str(number), "arm": arm}
        events.append(event | {"metrics": GOOD | {"error": bad}, "share": state.share})
        state.apply(events[-1])
        decision = decide(state)
        if decision and decision.action != "hold":
            events.append(verdict(state, decision))
            state.apply(events[-1])
    events = [json.loads(json.dumps(event)) for event in events]
    verdicts = list(replay(events))
    assert [decision.reason for _, decision in verdicts] == [event["reason"] for event, _ in verdicts]
    assert fold(events).status == state.status
    for event in events:
        if event["event"] == "verdict":
            event["action"] = "promote" if event["action"] != "promote" else "roll back"
            with pytest.raises(ArtifactError):
                list(replay(events))
            break


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"stages": [{"share": 0.5}, {"share": 0.2}]}, "must not fall"),
        ({"stages": [{"share": 0}]}, "share 0 exactly if it is a shadow"),
        ({"stages": [{"share": 0.1, "decide": False}]}, "no stage decides"),
        ({"guardrails": {"errors": {"metric": "error"}}}, "nothing would ever be proven"),
        ({"guardrails": {}}, "at least one"),
        ({"stages": []}, "at least one"),
        ({"excluded": ["ann"]}, "unit: request"),
        ({"stages": [{"share": 1.2}]}, "less than or equal to 1"),
        ({"unknown": 1}, "Extra inputs"),
        ({"guardrails": {"money": {"metric": "cost", "within": 0.001}}}, "say as `tau`"),
        (
            {"guardrails": COST, "arms": {"stable": PRICED, "candidate": {"url": "http://b"}}},
            "needs a `price`",
        ),
    ],
)
def test_plans_that_cannot_work_are_refused(change: dict, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        plan_of(PLAN | change)


def test_a_plan_in_a_file_names_the_line(tmp_path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(
        "name: chat\nstages:\n  - {share: 7}\nguardrails:\n  errors: {metric: error, within: 0.01}\n"
    )
    with pytest.raises(RecipeError) as raised:
        load_plan(path)
    assert "plan.yaml:3" in raised.value.where and "share" in raised.value.where


def test_an_event_of_another_version_is_refused() -> None:
    with pytest.raises(ArtifactError):
        fold([{"t": 0, "event": "moved"}])


def yesterday(count: int, users: int = 4000, seed: int = 5) -> list[dict]:
    """A log of stable alone: errors of 1%, a slow evening, a thumb now and then, an arm that is not stable, somebody who left."""
    import numpy as np

    random, events = np.random.default_rng(seed), started()
    for n in range(count):
        seconds = random.normal(0.5 if n > count / 2 else 0.0, 0.4)
        metrics = {
            "error": int(random.random() < 0.01),
            "empty": 0,
            "log_latency": seconds,
            "slow": 0,
            "nonsense": 3,
        }
        known = {"t": n / 5, "id": str(n), "unit": f"user-{random.integers(users)}", "arm": STABLE}
        events.append({**known, "event": "request", "metrics": metrics})
        if n % 10 == 0:
            events.append({"t": n / 5, "event": "feedback", "id": str(n), "metric": "thumbs", "value": 1})
    events.append({"t": 1.0, "event": "request", "id": "a", "unit": "a", "arm": CANDIDATE, "metrics": GOOD})
    events.append(
        {"t": 1.0, "event": "request", "id": "b", "unit": "b", "arm": STABLE, "metrics": GOOD, "left": True}
    )
    return events


def test_recorded_traffic_is_played_with_planted_harm() -> None:
    rows = recorded(yesterday(6000), "log")
    assert len(rows) == 6000 and rows[0][2]["thumbs"] == 1 and "nonsense" not in rows[0][2]
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)
    plan = plan_of(PLAN | {"unit": "user"})
    same = simulate(plan, Recorded(rows))
    assert same.status == PROMOTED and same.candidate_requests > 0
    assert simulate(plan, Recorded(rows)) == same != simulate(plan, Recorded(rows, seed=1))
    for harm, guardrail in (
        (Harm({"error": 0.3}), "errors"),
        (Harm({"empty": 1.0}), "empty"),
        (Harm(slower=2.0), "latency"),
    ):
        found = simulate(plan, Recorded(rows, {CANDIDATE: harm}))
        assert (
            found.status == ROLLED_BACK and found.reason.startswith(guardrail) and found.exposed_users < 700
        )
    slow = Recorded([(0.0, "ann", {"log_latency": 3.0, "slow": 0})], {CANDIDATE: Harm(slower=3.0)})
    assert next(slow.calls(plan)).answer(CANDIDATE) == {
        "log_latency": pytest.approx(4.0986, abs=1e-4),
        "slow": 1,
    }
    assert next(slow.calls(plan)).answer(STABLE) == {"log_latency": 3.0, "slow": 0}
    with pytest.raises(DataError, match="no replies of stable"):
        recorded(started(), "log")


def test_a_metric_that_was_not_recorded_holds() -> None:
    rows = [(t, unit, {"error": 0}) for t, unit, _ in recorded(yesterday(3000), "log")]
    plan = plan_of(
        PLAN | {"guardrails": PLAN["guardrails"] | {"thumbs": {"metric": "thumbs", "within": 0.1}}}
    )
    found = simulate(plan, Recorded(rows))
    assert found.status == "running" and "thumbs of candidate: 0 of 50" in found.reason
