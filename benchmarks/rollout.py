"""False alarms and detection of the canary's evidence, beside fixed thresholds as Argo Rollouts and Flagger evaluate them.

    python benchmarks/rollout.py [--runs 1000] [--only spike]

Every row is simulated `--runs` times and looked at after every request, with the classes that decide a real rollout; all methods
read the same stream. Thresholds are evaluated as those tools do it: a query over the last window of a minute (600 requests here),
a limit fixed beforehand (errors of the candidate above 2%, or its 99th percentile above one and a half times stable's true one),
and an abort at the first breach or at the third (`failureLimit: 2`, `threshold: 3`). It prints Markdown; brackets hold Wilson's
95% interval. A thousand runs of all rows take some minutes of one core.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from scipy.stats import binomtest

from trivium.rollout.evidence import Flips, Means, SampleRatio, alarm

WINDOW, MOST = 600, 0.02
LIMIT = math.log(1 / 0.05)
"""log e of an alarm."""
P99 = math.exp(2.326348)
"""Seconds: the 99th percentile of a lognormal of median and sigma 1."""
Rate = Callable[[int], float]
Array = np.ndarray


def steady(value: float) -> Rate:
    return lambda _: value


def ramp(length: int, values: tuple[float, ...]) -> Rate:
    return lambda step: values[min(len(values) - 1, step * len(values) // length)]


def spike(length: int, usual: float, high: float) -> Rate:
    return lambda step: high if length // 3 <= step < length // 3 + length // 10 else usual


@dataclass
class Alarm:
    """The first alarm of each run: `at` its request, from 1 (0: none), and `exposed` requests of the candidate by then."""

    runs: int
    at: Array = field(init=False)
    exposed: Array = field(init=False)

    def __post_init__(self) -> None:
        self.at, self.exposed = np.zeros(self.runs, int), np.zeros(self.runs, int)

    def note(self, now: Array, step: int, answered: Array) -> None:
        new = (self.at == 0) & now
        self.at[new], self.exposed[new] = step + 1, answered[new]


class Thresholds:
    """Windows whose number must not exceed a limit: aborted at the first breach, or at the third."""

    def __init__(self, runs: int) -> None:
        self.breaches, self.first, self.third = np.zeros(runs, int), Alarm(runs), Alarm(runs)

    def window(self, breach: Array, step: int, answered: Array) -> None:
        self.breaches += breach
        self.first.note(breach, step, answered)
        self.third.note(self.breaches >= 3, step, answered)

    @property
    def methods(self) -> dict[str, Alarm]:
        return {"threshold, first breach": self.first, "threshold, third": self.third}


Found = dict[str, Alarm]


def events(runs: int, length: int, share: Rate, stable: Rate, candidate: Rate, seed: int) -> Found:
    random, flips, ours, fixed = np.random.default_rng(seed), Flips(LIMIT), Alarm(runs), Thresholds(runs)
    failed, asked, answered = np.zeros(runs), np.zeros(runs), np.zeros(runs, int)
    for step in range(length):
        inside = random.random(runs) < share(step)
        bad = random.random(runs) < np.where(inside, candidate(step), stable(step))
        answered += inside
        flips.add(inside, share(step), bad)
        ours.note(alarm(flips.log_e, 0.05, 1), step, answered)
        failed, asked = failed + (bad & inside), asked + inside
        if (step + 1) % WINDOW == 0:
            fixed.window((asked > 0) & (failed / np.maximum(asked, 1) > MOST), step, answered)
            failed, asked = np.zeros(runs), np.zeros(runs)
    return {"ours": ours} | fixed.methods


def sticky(runs: int, length: int, users: int, failing: float, share: float, seed: int) -> Found:
    """Users who fail on every request, in either arm: counted once a user (ours) and once a request."""
    random, by_unit, by_request = np.random.default_rng(seed), Flips(LIMIT), Flips(LIMIT)
    arm, fails = random.random((runs, users)) < share, np.zeros((runs, users), bool)
    fails[:, : round(users * failing)] = True
    known, fixed = np.zeros((runs, users), bool), Thresholds(runs)
    ours, naive, rows = Alarm(runs), Alarm(runs), np.arange(runs)
    failed, asked, answered = np.zeros(runs), np.zeros(runs), np.zeros(runs, int)
    for step in range(length):
        user = random.integers(0, users, runs)
        inside, bad = arm[rows, user], fails[rows, user]
        answered += inside
        by_unit.add(inside, share, bad & ~known[rows, user])
        by_request.add(inside, share, bad)
        known[rows, user] |= bad
        ours.note(alarm(by_unit.log_e, 0.05, 1), step, answered)
        naive.note(alarm(by_request.log_e, 0.05, 1), step, answered)
        failed, asked = failed + (bad & inside), asked + inside
        if (step + 1) % WINDOW == 0:
            fixed.window((asked > 0) & (failed / np.maximum(asked, 1) > MOST), step, answered)
            failed, asked = np.zeros(runs), np.zeros(runs)
    return {"ours": ours, "the same, per request": naive} | fixed.methods


def latency(runs: int, length: int, share: float, slower: Callable[[Array], Array], seed: int) -> Found:
    """`slower`: uniform draws to the logarithms of what the candidate's replies take longer."""
    random, means, flips = np.random.default_rng(seed), Means(0.1), Flips(LIMIT)
    ours, slow, fixed = Alarm(runs), Alarm(runs), Thresholds(runs)
    answered, window = np.zeros(runs, int), np.full((WINDOW, runs), np.nan)
    for step in range(length):
        inside = random.random(runs) < share
        seconds = random.standard_normal(runs) + np.where(inside, slower(random.random(runs)), 0)
        answered += inside
        means.add(inside, seconds)
        flips.add(inside, share, seconds > math.log(P99))
        ours.note(alarm(means.log_e(), 0.05, 1), step, answered)
        slow.note(alarm(flips.log_e, 0.05, 1), step, answered)
        window[step % WINDOW] = np.where(inside, seconds, np.nan)
        if (step + 1) % WINDOW == 0:
            top = np.nanquantile(window, 0.99, axis=0)
            fixed.window(top > math.log(1.5 * P99), step, answered)
    return {"ours, mean of the logarithm": ours, "ours, replies beyond an SLO": slow} | fixed.methods


def ratio(runs: int, length: int, planned: float, real: float, seed: int) -> Found:
    random, test, ours = np.random.default_rng(seed), SampleRatio(planned), Alarm(runs)
    answered = np.zeros(runs, int)
    for step in range(length):
        inside = random.random(runs) < real
        answered += inside
        test.add(inside)
        ours.note(alarm(test.log_e, 0.01, 1), step, answered)
    return {"ours": ours}


def times(factor: float, of: float = 1.0) -> Callable[[Array], Array]:
    """A part `of` the replies takes `factor` times as long."""
    return lambda draws: np.where(draws < of, math.log(factor), 0.0)


@dataclass(frozen=True)
class Row:
    traffic: str
    asked: str
    play: Callable[[int], Found]
    by: int = 0
    """The request, or with `exposed` the candidate's, by which an alarm is asked for."""
    exposed: bool = False


WEATHER, SHARES = (0.002, 0.005, 0.01, 0.03), (0.01, 0.05, 0.25, 0.5)
SAME = "≤ 5%"


def same(traffic: str, share: Rate, rate: Rate, seed: int, length: int = 20_000) -> Row:
    return Row(traffic, SAME, lambda runs: events(runs, length, share, rate, rate, seed))


def rows() -> Iterator[Row]:
    one, half, few = steady(0.01), steady(0.5), steady(0.05)
    yield same("A/A: errors 1% in both, share 50%", half, one, 1)
    yield same("A/A: errors 1% in both, share 5%", few, one, 2)
    moving = "A/A: share 1-5-25-50%, errors of both rise from .2 to 3%"
    yield same(moving, ramp(20_000, SHARES), ramp(20_000, WEATHER), 3)
    yield same("A/A: both spike to 6%, share 50%", half, spike(20_000, 0.01, 0.06), 14)
    yield same("A/A: both spike to 6%, share 5%", few, spike(20_000, 0.01, 0.06), 4)
    for share, seed in ((0.5, 5), (0.05, 6)):
        name = f"A/A: ten of 1,000 users always fail, share {share:.0%}"
        yield Row(name, SAME, lambda runs, s=share, n=seed: sticky(runs, 10_000, 1000, 0.01, s, n))
    three = steady(0.03)
    yield Row("errors 1 → 3%, share 50%", "≥ 95% by about 2,900",
              lambda runs: events(runs, 8_000, half, one, three, 7), 2_900)  # fmt: skip
    yield Row("errors 1 → 3%, share 5%", "≥ 95% by about 14,000",
              lambda runs: events(runs, 30_000, few, one, three, 8), 14_000)  # fmt: skip
    yield Row("empty replies only, share 5%", "≥ 95% within 20 of its replies",
              lambda runs: events(runs, 2_000, few, steady(0.0), steady(1.0), 9), 20, True)  # fmt: skip
    yield Row("A/A: latency, share 50%", SAME, lambda runs: latency(runs, 10_000, 0.5, times(1.0), 10))
    yield Row("A/A: latency, share 5%", SAME, lambda runs: latency(runs, 20_000, 0.05, times(1.0), 15))
    yield Row("latency × 1.2, share 50%", "≥ 95%", lambda runs: latency(runs, 10_000, 0.5, times(1.2), 11))
    yield Row("latency × 1.2, share 5%", "≥ 95%", lambda runs: latency(runs, 40_000, 0.05, times(1.2), 16))
    yield Row("2% of replies × 4, share 5%", "said: nobody sees it",
              lambda runs: latency(runs, 40_000, 0.05, times(4.0, 0.02), 17))  # fmt: skip
    yield Row("units 50/50 as planned", "≤ 1%", lambda runs: ratio(runs, 20_000, 0.5, 0.5, 12))
    yield Row("units 52/48 where 50/50 was planned", "≥ 95%",
              lambda runs: ratio(runs, 20_000, 0.5, 0.52, 13))  # fmt: skip


def rate(count: int, runs: int) -> str:
    """With Wilson's interval."""
    low, high = binomtest(count, runs).proportion_ci(0.95, "wilson")
    return f"{count / runs:.1%} ({100 * low:.1f}–{100 * high:.1f})"


def line(row: Row, method: str, found: Alarm) -> str:
    runs, hit = found.runs, found.at > 0
    reached = found.exposed if row.exposed else found.at
    in_time = rate(int((hit & (reached <= row.by)).sum()), runs) if row.by else "–"
    middle = "–"
    if hit.any():
        middle = f"{np.median(found.at[hit]):,.0f} / {np.median(found.exposed[hit]):,.0f}"
    return f"| {row.traffic} | {row.asked} | {method} | {rate(int(hit.sum()), runs)} | {in_time} | {middle} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--only", default="", help="rows whose name holds this")
    given = parser.parse_args()
    print(f"{given.runs} runs a row\n")
    print("| traffic | asked | method | alarms | by the asked request | median request / the candidate's |")
    print("|---|---|---|---|---|---|")
    for row in rows():
        if given.only in row.traffic:
            for method, found in row.play(given.runs).items():
                print(line(row, method, found), flush=True)


if __name__ == "__main__":
    main()
