"""False alarms and detection of the canary's evidence, beside fixed thresholds as Argo Rollouts and Flagger evaluate them.

    python benchmarks/rollout.py [--runs 1000]

Every row is simulated `--runs` times and looked at after every request, with the classes that decide a real rollout; both sides
read the same stream. The thresholds: the error rate of the candidate over the last window of a minute (600 requests here) must
stay below 2%; the rollout is aborted at the first window that does not, or at the third (`failureLimit`). It prints Markdown.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import numpy as np

from trivium.rollout.evidence import Flips, Means, SampleRatio, alarm

WINDOW, LIMIT = 600, 0.02
Rate = Callable[[int], float]


def steady(value: float) -> Rate:
    return lambda _: value


def ramp(length: int, values: tuple[float, ...]) -> Rate:
    return lambda step: values[min(len(values) - 1, step * len(values) // length)]


def spike(length: int, usual: float, high: float) -> Rate:
    return lambda step: high if length // 3 <= step < length // 3 + length // 10 else usual


def first(found: np.ndarray, now: np.ndarray, step: int) -> np.ndarray:
    return np.where((found == 0) & now, step + 1, found)


def events(
    runs: int, length: int, share: Rate, stable: Rate, candidate: Rate, seed: int
) -> dict[str, np.ndarray]:
    """For each run the request of the first alarm, 0 where there is none, by method."""
    random, flips = np.random.default_rng(seed), Flips()
    ours, once, thrice = (np.zeros(runs, int) for _ in range(3))
    failed, answered, breaches = np.zeros(runs), np.zeros(runs), np.zeros(runs, int)
    for step in range(length):
        inside = random.random(runs) < share(step)
        bad = random.random(runs) < np.where(inside, candidate(step), stable(step))
        flips.add(inside, share(step), bad)
        ours = first(ours, alarm(flips.log_e, 0.05, 1), step)
        failed, answered = failed + (bad & inside), answered + inside
        if (step + 1) % WINDOW == 0:
            breach = (answered > 0) & (failed / np.maximum(answered, 1) > LIMIT)
            breaches += breach
            once, thrice = first(once, breach, step), first(thrice, breaches >= 3, step)
            failed, answered = np.zeros(runs), np.zeros(runs)
    return {"ours": ours, "threshold, first breach": once, "threshold, third": thrice}


def sticky(
    runs: int, length: int, users: int, failing: float, share: float, seed: int
) -> dict[str, np.ndarray]:
    """Users who fail on every request, in either arm: counted once a user (ours) and once a request."""
    random = np.random.default_rng(seed)
    by_unit, by_request = Flips(), Flips()
    arm, fails = random.random((runs, users)) < share, random.random((runs, users)) < failing
    known = np.zeros((runs, users), bool)
    ours, naive, rows = np.zeros(runs, int), np.zeros(runs, int), np.arange(runs)
    for step in range(length):
        user = random.integers(0, users, runs)
        inside, bad = arm[rows, user], fails[rows, user]
        by_unit.add(inside, share, bad & ~known[rows, user])
        by_request.add(inside, share, bad)
        known[rows, user] |= bad
        ours = first(ours, alarm(by_unit.log_e, 0.05, 1), step)
        naive = first(naive, alarm(by_request.log_e, 0.05, 1), step)
    return {"ours": ours, "the same, per request": naive}


def latency(runs: int, length: int, share: float, factor: float, seed: int) -> dict[str, np.ndarray]:
    random, means = np.random.default_rng(seed), Means(0.1)
    ours = np.zeros(runs, int)
    for step in range(length):
        inside = random.random(runs) < share
        means.add(inside, random.standard_normal(runs) + np.where(inside, math.log(factor), 0))
        ours = first(ours, alarm(means.log_e(), 0.05, 1), step)
    return {"ours": ours}


def ratio(runs: int, length: int, planned: float, real: float, seed: int) -> dict[str, np.ndarray]:
    random, test = np.random.default_rng(seed), SampleRatio(planned)
    ours = np.zeros(runs, int)
    for step in range(length):
        test.add(random.random(runs) < real)
        ours = first(ours, alarm(test.log_e, 0.01, 1), step)
    return {"ours": ours}


def rows(runs: int) -> list[tuple[str, str, dict[str, np.ndarray]]]:
    weather = (0.002, 0.005, 0.01, 0.03)
    shares = (0.01, 0.05, 0.25, 0.5)
    same = "at most 5%"
    return [
        (
            "errors 1% in both, share 50%",
            same,
            events(runs, 20_000, steady(0.5), steady(0.01), steady(0.01), 1),
        ),
        (
            "errors 1% in both, share 5%",
            same,
            events(runs, 20_000, steady(0.05), steady(0.01), steady(0.01), 2),
        ),
        (
            "share 1-5-25-50%, errors of both rise from .2 to 3%",
            same,
            events(runs, 20_000, ramp(20_000, shares), ramp(20_000, weather), ramp(20_000, weather), 3),
        ),
        (
            "both spike to 6%, share 5%",
            same,
            events(runs, 20_000, steady(0.05), spike(20_000, 0.01, 0.06), spike(20_000, 0.01, 0.06), 4),
        ),
        ("ten of 1,000 users always fail, share 50%", same, sticky(runs, 10_000, 1000, 0.01, 0.5, 5)),
        ("ten of 1,000 users always fail, share 5%", same, sticky(runs, 10_000, 1000, 0.01, 0.05, 6)),
        (
            "errors 1% against 3%, share 50%",
            "95% by 2,900",
            events(runs, 8_000, steady(0.5), steady(0.01), steady(0.03), 7),
        ),
        (
            "errors 1% against 3%, share 5%",
            "95% by 14,000",
            events(runs, 30_000, steady(0.05), steady(0.01), steady(0.03), 8),
        ),
        (
            "empty replies only, share 5%",
            "95% by 400 (20 of the candidate)",
            events(runs, 2_000, steady(0.05), steady(0.0), steady(1.0), 9),
        ),
        ("latency x 1 (lognormal), share 50%", same, latency(runs, 10_000, 0.5, 1.0, 10)),
        ("latency x 1.2, share 50%", "95%", latency(runs, 10_000, 0.5, 1.2, 11)),
        ("units 50/50 as planned", "at most 1%", ratio(runs, 20_000, 0.5, 0.5, 12)),
        ("units 52/48 where 50/50 was planned", "95%", ratio(runs, 20_000, 0.5, 0.52, 13)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=1000)
    runs = parser.parse_args().runs
    print(
        f"{runs} runs a row; one standard error at 5% is {100 * math.sqrt(0.05 * 0.95 / runs):.1f} points\n"
    )
    print(
        "| traffic | asked | method | alarms | median request | 95% by request |\n|---|---|---|---|---|---|"
    )
    for name, asked, methods in rows(runs):
        for method, found in methods.items():
            hits = found[found > 0]
            middle = f"{np.median(hits):,.0f}" if len(hits) else "–"
            late = (
                f"{np.quantile(np.where(found > 0, found, 10**9), 0.95):,.0f}"
                if len(hits) >= 0.95 * runs
                else "–"
            )
            print(f"| {name} | {asked} | {method} | {len(hits) / runs:.1%} | {middle} | {late} |", flush=True)


if __name__ == "__main__":
    main()
