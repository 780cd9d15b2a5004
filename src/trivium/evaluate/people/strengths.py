"""How strong models are, by people's comparisons: Bradley and Terry (1952) with ties (Davidson 1970).

P(i beats j) = p_i / (p_i + p_j + v sqrt(p_i p_j)), P(tie) = v sqrt(p_i p_j) / (same), with log p_i the strength of model i.
Divided by sqrt(p_i p_j) it is a multinomial logit of (d/2, -d/2, log v) with d = log p_i - log p_j, so the likelihood is concave,
all comparisons count at once, and their order does not matter (that of Elo does). With length control d gains g x, where
x = (length_i - length_j) / (length_i + length_j), and strengths are those at equal length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trivium.evaluate.people.tasks import Task
from trivium.evaluate.people.votes import PAIR, Vote
from trivium.seeds import generator

POINTS = 400 / math.log(10)
"""Elo's scale: 400 points are odds of ten to one."""
PRIOR = 3.0
"""Standard deviation (in log p) of the normal prior that keeps strengths finite where one model won all."""
STEPS = 100
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Comparisons:
    """`design`: (n, models) or, with length, (n, models + 1): +1 for the left model, -1 for the right, then x. `outcome`: 0 left,
    1 right, 2 neither. `rater`, `task`: numbers of them."""

    models: tuple[str, ...]
    design: Floats
    outcome: NDArray[np.int64]
    rater: NDArray[np.int64]
    task: NDArray[np.int64]


@dataclass(frozen=True)
class Strength:
    """In Elo's points above the mean of all models. `low`, `high`: 95% interval. `votes`: comparisons it was in."""

    model: str
    points: float
    low: float
    high: float
    votes: int


@dataclass(frozen=True)
class Standings:
    strengths: tuple[Strength, ...]
    ties: float
    """Davidson's v: how readily people call it a tie, 0 for never."""
    length: float | None
    """g of the length control; above 0, longer replies are preferred."""
    raters: int
    tasks: int
    left_share: float
    """Of the votes for one side: how often the left one. Sides are drawn, so 0.5 but for a habit of the raters."""
    non_blind: int
    """Votes left out because a reply said which model it is."""


def comparisons(votes: Sequence[Vote], tasks: dict[str, Task], length: bool = False) -> Comparisons:
    """Blind votes on two replies, as numbers. "bad" is a tie: neither was better."""
    used = [vote for vote in votes if vote.choice in PAIR and vote.blind and vote.task in tasks]
    models = tuple(sorted({name for vote in used for name in (vote.left, vote.right)}))
    place = {name: n for n, name in enumerate(models)}
    design = np.zeros((len(used), len(models) + length))
    for row, vote in enumerate(used):
        design[row, place[vote.left]] += 1
        design[row, place[vote.right]] -= 1
        if length:
            sizes = {side.model: len(side.reply) for side in tasks[vote.task].sides}
            design[row, -1] = (sizes[vote.left] - sizes[vote.right]) / max(1, sum(sizes.values()))
    outcome = np.array([{"left": 0, "right": 1}.get(vote.choice, 2) for vote in used], dtype=np.int64)
    return Comparisons(
        models, design, outcome, _numbered([v.rater for v in used]), _numbered([v.task for v in used])
    )


def _numbered(names: Sequence[str]) -> NDArray[np.int64]:
    place = {name: n for n, name in enumerate(dict.fromkeys(names))}
    return np.array([place[name] for name in names], dtype=np.int64)


def fit(design: Floats, outcome: NDArray[np.int64], weight: Floats, start: Floats | None = None) -> Floats:
    """The parameters (a column's each, then log v) of greatest posterior density, by Newton's method. `weight`: of each row.
    `start`: where to begin."""
    kept = weight > 0
    design, outcome, weight = design[kept], outcome[kept], weight[kept]
    count, columns = design.shape
    features = np.zeros((count, 3, columns + 1))  # of the three utilities
    features[:, 0, :-1], features[:, 1, :-1], features[:, 2, -1] = design / 2, -design / 2, 1.0
    flat = features.reshape(3 * count, columns + 1)
    chosen = features[np.arange(count), outcome]
    beta = np.zeros(columns + 1) if start is None else start
    prior = np.eye(columns + 1) / PRIOR**2

    def value(at: Floats) -> tuple[float, Floats]:
        utilities = (flat @ at).reshape(count, 3)
        total = np.logaddexp.reduce(utilities, axis=1)
        found = float(weight @ (chosen @ at - total) - 0.5 * at @ prior @ at)
        return found, np.exp(utilities - total[:, None])

    here, chance = value(beta)
    for _ in range(STEPS):
        mean = (chance[:, :, None] * features).sum(1)
        gradient = weight @ (chosen - mean) - prior @ beta
        each = (weight[:, None] * chance).reshape(-1, 1)
        hessian = flat.T @ (each * flat) - mean.T @ (weight[:, None] * mean) + prior
        step, scale = np.linalg.solve(hessian, gradient), 1.0
        while (there := value(beta + scale * step))[0] < here - 1e-12 and scale > 1e-6:
            scale /= 2
        beta, (here, chance) = beta + scale * step, there
        if float(np.abs(scale * step).max()) < 1e-8:
            break
    return beta


def standings(
    votes: Sequence[Vote], tasks: dict[str, Task], *, length: bool = False, repeats: int = 400, seed: int = 0
) -> Standings:
    """Strengths with 95% intervals by resampling raters and tasks, each on its own, a vote counting as often as both were
    drawn (the pigeonhole bootstrap, Owen 2007): one rater's hundred votes are no hundred raters. With one rater the
    interval is about tasks alone."""
    found = comparisons(votes, tasks, length)
    models, count = len(found.models), len(found.outcome)
    sided = found.outcome[found.outcome < 2]
    non_blind = sum(vote.choice in PAIR and not vote.blind for vote in votes)
    raters, asked = int(found.rater.max(initial=-1)) + 1, int(found.task.max(initial=-1)) + 1
    if not count:
        return Standings((), 0.0, None, 0, 0, math.nan, non_blind)

    def points(beta: Floats) -> Floats:
        own = beta[:models]
        return np.asarray(POINTS * (own - own.mean()))

    best = fit(found.design, found.outcome, np.ones(count))
    draws = np.empty((repeats, models))
    random = generator(seed, "people", "strengths")
    for nth in range(repeats):
        by_rater = random.multinomial(raters, np.full(raters, 1 / raters))
        by_task = random.multinomial(asked, np.full(asked, 1 / asked))
        weight = (by_rater[found.rater] * by_task[found.task]).astype(np.float64)
        draws[nth] = points(fit(found.design, found.outcome, weight, best))
    low, high = np.quantile(draws, (0.025, 0.975), axis=0)
    compared = np.abs(found.design[:, :models]).sum(0).astype(int)
    ranked = sorted(
        (
            Strength(name, float(at), float(below), float(above), int(n))
            for name, at, below, above, n in zip(found.models, points(best), low, high, compared, strict=True)
        ),
        key=lambda strength: (-strength.points, strength.model),
    )
    return Standings(
        tuple(ranked),
        float(np.exp(best[-1])),
        float(best[models]) if length else None,
        raters,
        asked,
        float((sided == 0).mean()) if len(sided) else math.nan,
        non_blind,
    )
