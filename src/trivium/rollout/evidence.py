"""What events say about an arm, valid at every moment at which anybody looks: e-processes and confidence sequences.

An e-process is a number that starts at 1 and, if the arms are alike, exceeds 1/alpha at any time with probability at most alpha
(Ville 1939). All classes keep sums only, take one event at a time and work elementwise: a field may be a number (one rollout)
or an array (many simulated ones). Logarithms are natural.

What each assumes. `Flips`: that units fall into the candidate with the known share; nothing about rates, which may drift.
`Means`: independent units, many enough for their mean to be nearly normal (it waits for `least` units an arm); never pooled over
stages, since a share that changes beside a mean that drifts fakes a difference. `SampleRatio`: units counted once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Numbers = Any
"""A float or an array of them, one a simulated rollout."""

RATIO = 2.1
"""How many times as often as stable a candidate is taken to fail: the alternative that `Flips` bets on. A bet below the harm that
one wants to see in time grows more slowly and varies less, so that fewer runs are late (docs/rollout.md has the figures)."""


@dataclass
class Flips:
    """Is a bad event likelier in the candidate? Every bad event is a coin that falls into the candidate with its share.

    Lindon & Malek (NeurIPS 2022); for canaries Lindon, Sanden & Shirikian (KDD 2022): for an odds ratio r and a share rho_i at
    the i-th event, theta_i = rho_i r / (rho_i r + 1 - rho_i) and
    e = prod (theta_i / rho_i)^c_i ((1 - theta_i) / (1 - rho_i))^(1 - c_i), c_i = 1 in the candidate.
    Exact: base rates cancel, shares may change from event to event as long as they were known before it, and so may theta_i:
    where a win would go beyond `limit`, theta_i is what reaches it (nothing is gained beyond it), and then nothing more is bet.
    """

    limit: float = math.inf
    """log e at which the point is proven."""
    candidate: Numbers = 0
    stable: Numbers = 0
    log_e: Numbers = 0.0

    def add(self, in_candidate: Numbers, share: Numbers, happened: Numbers = True) -> None:
        """One bad event. `share`: the candidate's, as it was when the unit was assigned. `happened`: False changes nothing."""
        shares = np.clip(np.asarray(share, dtype=np.float64), 1e-12, 1 - 1e-12)
        left = np.maximum(self.limit - self.log_e, 0.0) * (1 + 1e-12)  # reached in spite of rounding
        won = np.minimum(np.log(RATIO / (shares * RATIO + 1 - shares)), left)
        lost = np.log1p(-shares * np.exp(won)) - np.log1p(-shares)
        step = np.where(np.asarray(in_candidate), won, lost)
        self.log_e = (self.log_e + np.where(np.asarray(happened), step, 0.0))[()]
        self.candidate = self.candidate + (np.asarray(happened) & np.asarray(in_candidate))
        self.stable = self.stable + (np.asarray(happened) & ~np.asarray(in_candidate))


@dataclass
class Moments:
    """Count, mean and variance of one arm (Welford 1962)."""

    count: Numbers = 0
    mean: Numbers = 0.0
    _squares: Numbers = 0.0

    def add(self, value: Numbers, happened: Numbers = True) -> None:
        if isinstance(happened, bool) and isinstance(value, float):  # one rollout: a router's hot path
            if happened:
                self.count += 1
                off = value - self.mean
                self.mean += off / self.count
                self._squares += off * (value - self.mean)
            return
        seen = np.asarray(happened)
        self.count = self.count + seen
        off = np.where(seen, np.asarray(value, dtype=np.float64) - self.mean, 0.0)
        self.mean = self.mean + off / np.maximum(self.count, 1)
        self._squares = self._squares + off * np.where(seen, value - self.mean, 0.0)

    def and_others(self, count: int, value: float) -> Moments:
        """These and `count` more of one value (Chan, Golub & LeVeque 1983)."""
        if not count:
            return self
        total, off = self.count + count, value - self.mean
        squares = self._squares + off**2 * self.count * count / total
        return Moments(total, self.mean + off * count / total, squares)

    @property
    def variance_of_mean(self) -> Numbers:
        return self._squares / np.maximum(self.count - 1, 1) / np.maximum(self.count, 1)


@dataclass
class Means:
    """How much larger is the candidate's mean? The asymptotic confidence sequence of one stage.

    Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas (Annals of Statistics 2024). With the difference d, I = 1 / Var(d)
    and Z = d I, a half-normal mixture of scale `tau` (the smallest difference that matters) gives the one-sided e-process
    e = 2 Phi(tau Z / sqrt(1 + tau^2 I)) (1 + tau^2 I)^(-1/2) exp(tau^2 Z^2 / (2 (1 + tau^2 I))).
    """

    tau: float
    least: int = 50
    """Units an arm needs before anything is said; with fewer, log_e is 0 and the interval is everything."""
    shares: bool = False
    """Values lie from 0 to 1. Their variance is then taken with a 0 and a 1 more, which for yes and no is p (1 - p) with
    p = (k + 1) / (n + 2) (Agresti & Caffo 2000): never nought, so that arms which never failed can be told from arms that nobody
    tried."""
    candidate: Moments = field(default_factory=Moments)
    stable: Moments = field(default_factory=Moments)

    def add(self, in_candidate: Numbers, value: Numbers, happened: Numbers = True) -> None:
        self.candidate.add(value, happened & in_candidate)
        self.stable.add(value, happened & (in_candidate ^ True))

    @property
    def difference(self) -> Numbers:
        """Candidate minus stable."""
        return self.candidate.mean - self.stable.mean

    @property
    def ready(self) -> Numbers:
        return (np.minimum(self.candidate.count, self.stable.count) >= self.least) & (self._variance > 0)

    @property
    def _variance(self) -> Numbers:
        return np.asarray(self._of(self.candidate) + self._of(self.stable))

    def _of(self, arm: Moments) -> Numbers:
        if not self.shares:
            return arm.variance_of_mean
        mean = (arm.mean * arm.count + 1) / (arm.count + 2)
        square = (arm._squares + arm.mean**2 * arm.count + 1) / (arm.count + 2)
        return (square - mean**2) / np.maximum(arm.count, 1)

    def log_e(self, beyond: float = 0.0, *, smaller: bool = False) -> Numbers:
        """Evidence against "the difference is at most `beyond`"; with `smaller`, against "it is at least `beyond`"."""
        variance = np.where(self.ready, self._variance, 1.0)
        information = 1 / variance
        z = (self.difference - beyond) * information * (-1.0 if smaller else 1.0)
        spread = 1 + self.tau**2 * information
        half_normal = _log_normal_cdf(self.tau * z / np.sqrt(spread)) + math.log(2)
        value = half_normal - np.log(spread) / 2 + self.tau**2 * z**2 / (2 * spread)
        return np.where(self.ready, value, 0.0)[()]

    def interval(self, alpha: float) -> tuple[Numbers, Numbers]:
        """Where the difference lies, with probability 1 - `alpha` at all times at once."""
        information = 1 / np.where(self.ready, self._variance, 1.0)
        spread = 1 + self.tau**2 * information
        half = np.sqrt(2 * spread * np.log(np.sqrt(spread) / alpha)) / (self.tau * information)
        half = np.where(self.ready, half, np.inf)
        return (self.difference - half)[()], (self.difference + half)[()]


@dataclass
class Quantiles:
    """Where the quantiles of one arm lie, at all times at once. Shown to people and no trigger: the mean of the logarithm tells
    arms apart with far fewer replies.

    Howard & Ramdas (Bernoulli 2022): with l = (1.4 log log(2.1 n) + log(10 / alpha)) / n and
    f(p) = 1.5 sqrt(p (1 - p) l) + 0.8 l, quantile p lies between the empirical quantiles p - f(1 - p) and p + f(p).
    """

    width: float = 0.02
    """Of the bins in which values are counted: of logarithms, two in a hundred."""
    count: int = 0
    bins: dict[int, int] = field(default_factory=dict)

    def add(self, value: float) -> None:
        place = math.floor(value / self.width)
        self.count += 1
        self.bins[place] = self.bins.get(place, 0) + 1

    def at(self, p: float, alpha: float) -> tuple[float, float, float]:
        """The empirical quantile (nan without values), and both ends of its interval, outwards to the edges of bins."""
        if not self.count:
            return math.nan, -math.inf, math.inf
        level = (1.4 * math.log(max(math.log(2.1 * self.count), 1.0)) + math.log(10 / alpha)) / self.count
        off = 1.5 * math.sqrt(p * (1 - p) * level) + 0.8 * level
        low = self._below(p - off) * self.width if p - off > 0 else -math.inf
        high = (self._below(p + off) + 1) * self.width if p + off < 1 else math.inf
        return (self._below(p) + 0.5) * self.width, low, high

    def _below(self, p: float) -> int:
        """The bin in which the share of values up to it reaches `p`."""
        passed = 0
        for place in sorted(self.bins):
            passed += self.bins[place]
            if passed >= p * self.count:
                return place
        return max(self.bins)


def _log_normal_cdf(x: Numbers) -> Numbers:
    from scipy.special import log_ndtr

    return log_ndtr(x)


@dataclass
class SampleRatio:
    """Do units fall into the arms with the shares that were set? For one stage, in which the shares stand still.

    The Bayes factor of a Beta prior around the share against the share itself (Lindon & Malek, NeurIPS 2022):
    e = B(k rho + n1, k (1 - rho) + n0) / B(k rho, k (1 - rho)) / (rho^n1 (1 - rho)^n0). A unit is counted once.
    """

    share: float
    concentration: float = 1000.0
    """k: how far from the share the alternatives lie; their standard deviation is sqrt(rho (1 - rho) / (k + 1))."""
    candidate: Numbers = 0
    stable: Numbers = 0

    def add(self, in_candidate: Numbers) -> None:
        self.candidate = self.candidate + np.asarray(in_candidate)
        self.stable = self.stable + ~np.asarray(in_candidate)

    @property
    def log_e(self) -> Numbers:
        from scipy.special import betaln

        if not 0 < self.share < 1:
            return 0.0
        a, b = self.concentration * self.share, self.concentration * (1 - self.share)
        prior = betaln(a + self.candidate, b + self.stable) - betaln(a, b)
        return prior - self.candidate * math.log(self.share) - self.stable * math.log1p(-self.share)


def alarm(log_e: Numbers, alpha: float, tests: int) -> Numbers:
    """Whether an e-process proves its point at level `alpha` shared among `tests` of them (Bonferroni)."""
    return log_e >= math.log(tests / alpha)
