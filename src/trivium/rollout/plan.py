"""What a rollout may do: stages of traffic, what must not get worse, and how sure one has to be. Validated like a recipe."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Discriminator, Field, Tag, ValidationError, field_validator, model_validator

from trivium.errors import RecipeError
from trivium.recipe import reader
from trivium.recipe.base import Fraction, Name, Strict
from trivium.recipe.judges import LiveJudge
from trivium.recipe.lines import Lines, together
from trivium.recipe.units import Seconds
from trivium.rollout.assign import CANDIDATE, STABLE, fault
from trivium.rollout.windows import window

CHOICES = ("lost",)
"""Events of two replies side by side, one of stable: the candidate's was liked less. One minus the rate is the win rate."""
EVENTS = (
    *("error", "slow", "slow_start", "empty", "cut", "repeated", "refusal", "thumbs_down", "regenerated"),
    *CHOICES,
)
"""Metrics that happen or do not, a reply each; all are bad."""
MEANS = ("log_latency", "log_first_token", "cost", "score", "thumbs", "success")
"""Metrics with a value: log of seconds, money, a judge's score, 1 or 0."""
TIMES = ("log_latency", "log_first_token")
"""Logarithms of seconds."""
SHARES = ("thumbs", "success", "score")
"""Means of values from 0 to 1."""
FEEDBACK = ("thumbs", "thumbs_down", "regenerated", "success")
"""Metrics that users send later, and most never do: their absence from a reply says nothing."""
BETTER_HIGH = ("score", "thumbs", "success")


class Stage(Strict):
    """A share of the units that the candidate answers, and when it has been long enough."""

    share: Annotated[
        Annotated[Fraction, Tag("one number")] | Annotated[dict[Name, Fraction], Tag("by name")],
        Discriminator(lambda share: "by name" if isinstance(share, dict) else "one number"),
    ]
    """Share of the units, of several candidates each one's: `{short: 0.2, warm: 0.2}`. 0 with `shadow`: answers nobody."""
    shadow: bool = False
    """Requests are mirrored to the candidate; its answers are compared and thrown away."""
    min_units: Annotated[int, Field(ge=0)] = 100
    """Units (users, conversations or requests) of each candidate before anything but a rollback is decided."""
    min_time: Seconds = 0.0
    """Shortest stay: `10min`, `1h`; a day covers the daily rhythm."""
    max_time: Seconds | None = None
    """Longest wait for a decision; after it the rollout holds and calls for a person."""
    decide: bool = True
    """Promote only when every `within` is decided. False for the small first stages, which exist to catch harm early."""

    @property
    def shares(self) -> dict[str, float]:
        """Each candidate's, by name, in the plan's order."""
        return self.share if isinstance(self.share, dict) else {CANDIDATE: self.share}

    @property
    def total(self) -> float:
        """What stable does not answer."""
        return math.fsum(self.shares.values())


class Guardrail(Strict):
    """A metric in which the candidate must not be worse."""

    metric: Literal[*EVENTS, *MEANS]  # type: ignore[valid-type]
    tau: Annotated[float, Field(gt=0)] = 0.05
    """Means only: the smallest difference that matters, in the metric's own unit; evidence grows fastest near it. `cost` is
    money a reply and has no usual one."""
    within: Annotated[float, Field(gt=0)] | None = None
    """Promotion needs proof that the candidate is not worse by this much: 0.01 is one point of a rate. None: not needed."""

    @model_validator(mode="after")
    def _has_a_scale(self) -> Guardrail:
        if self.metric == "cost" and "tau" not in self.model_fields_set:
            raise ValueError("`cost` is money a reply: say as `tau` which difference matters")
        return self

    @property
    def is_event(self) -> bool:
        return self.metric in EVENTS


class Price(Strict):
    """What an arm's tokens cost, in any money, by the million; for the metric `cost`."""

    input: Annotated[float, Field(ge=0)]
    """Of the request, as the arm counts them in `usage`."""
    output: Annotated[float, Field(ge=0)]
    """Of the reply."""


class Arm(Strict):
    """A server that answers in the words of OpenAI or Anthropic: `trivium serve`, or any other."""

    url: str
    """What stands in front of `/v1`, such as `http://127.0.0.1:8001`."""
    model: str | None = None
    """What this server calls its model; None: as the client calls it."""
    key: Annotated[str, Field(pattern="^[A-Z][A-Z0-9_]*$")] | None = None
    """Environment variable that holds the server's API key; None: the client's own is passed on."""
    price: Price | None = None
    """What its tokens cost: both arms need one where a guardrail watches `cost`."""
    patience: Seconds = 60.0
    """Longest silence, before the first byte and between two; after it the reply has failed."""

    @field_validator("url")
    @classmethod
    def _is_a_base(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no address such as http://127.0.0.1:8001")
        if parts.username or parts.query or parts.fragment:
            raise ValueError(
                "an address holds no key and no query: `key` names a variable of the environment"
            )
        return url.rstrip("/").removesuffix("/v1")


class Candidate(Arm):
    """An arm that is tried."""

    artifact: str | None = None
    """Folder of the release that it serves, from the plan's folder: taken only if its gates passed and its files are whole."""
    signed_by: str | None = None
    """File of public keys, from the plan's folder: taken only if one of them signed `artifact` (`trivium sign`)."""


class RolloutPlan(Strict):
    """A candidate's way from nothing to all of the traffic, or that of several, of which one is chosen."""

    name: Name
    unit: Literal["user", "conversation", "request"] = "user"
    """What is assigned to an arm as a whole, and what counts once in every test: a user who always fails is one event."""
    arms: dict[Name, Candidate] | None = None
    """Who answers: `stable`, and each candidate by its name. For `trivium rollout serve` only."""
    salt: str | None = None
    """Of the assignment; None: the plan's name. Another salt shuffles the units anew."""
    excluded: tuple[str, ...] = ()
    """Units that stay on stable and are not analysed."""
    stages: tuple[Stage, ...]
    guardrails: dict[Name, Guardrail]
    goal: Name | None = None
    """Of several candidates that are proven not to be worse, the one that is best in this guardrail gets all of the traffic."""
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    """Chance that any candidate as good as stable is ever rolled back by any guardrail, and that one that is worse by a margin of
    `within` or more is ever proven not to be."""
    slow_after: Annotated[float, Field(gt=0)] = 30.0
    """Seconds after which a reply counts as `slow`: fixed beforehand, or it is no test."""
    slow_start_after: Annotated[float, Field(gt=0)] = 5.0
    """Seconds to the first token after which a reply counts as `slow_start`."""
    sample_ratio_alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.01
    """Chance of a false alarm that units fall into the arms otherwise than planned."""
    cap: Annotated[int, Field(gt=0)] = 20
    """Feedback of one unit that is taken; more is left out and counted."""
    windows: tuple[str, ...] = ()
    """Times of the week in which the plan promotes, `mon-fri 09:00-16:00 Europe/Berlin`; outside them it holds. A rollback waits
    for none, nor does a person. Empty: always."""
    judge: LiveJudge | None = None
    """Who gives the metric `score`, from 0 to 1: a judge of the evaluations, or a server that grades."""
    judged: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Share of the replies that `judge` is asked about."""

    @field_validator("windows")
    @classmethod
    def _are_windows(cls, windows: tuple[str, ...]) -> tuple[str, ...]:
        for text in windows:
            window(text)
        return windows

    @model_validator(mode="after")
    def _lawful(self) -> RolloutPlan:
        if not self.stages or not self.guardrails:
            raise ValueError("a plan needs at least one stage and one guardrail")
        for stage in self.stages:
            wrong = fault(stage.shares)
            if wrong is not None:
                raise ValueError(wrong)
            if tuple(stage.shares) != self.candidates:
                raise ValueError("every stage gives a share to the same candidates, in the same order")
            if stage.shadow != (stage.total == 0):
                raise ValueError("a stage has share 0 exactly if it is a shadow")
        for name in self.candidates:
            shares = [stage.shares[name] for stage in self.stages]
            if any(later < earlier for earlier, later in pairwise(shares)):
                raise ValueError(f"shares must not fall from stage to stage: {shares}")
        if not any(stage.decide and stage.total > 0 for stage in self.stages):
            raise ValueError("no stage decides: the candidate would get all traffic for having survived")
        if all(guardrail.within is None for guardrail in self.guardrails.values()):
            raise ValueError("no guardrail has `within`: nothing would ever be proven before promotion")
        self._one_is_chosen()
        self._somebody_answers()
        if (self.judge is not None) != any(g.metric == "score" for g in self.guardrails.values()):
            raise ValueError("`judge` gives the metric `score`: a plan has both, or neither")
        if self.unit == "request" and self.excluded:
            raise ValueError("`excluded` names units that come again; with `unit: request` none does")
        return self

    def _one_is_chosen(self) -> None:
        if len(self.candidates) == 1:
            if self.goal is not None:
                raise ValueError("`goal` chooses among several candidates; there is one")
            return
        if self.goal not in self.guardrails or self.guardrails[self.goal].within is None:
            raise ValueError(
                "of several candidates one is chosen: name as `goal` a guardrail that has `within`"
            )
        if min(self.slots.values()) == 0 or not self.stages[-1].decide or self.stages[-1].total >= 1:
            raise ValueError(
                "several candidates are decided upon in the last stage: each needs a share there, stable a rest, and `decide`"
            )

    def _somebody_answers(self) -> None:
        if self.arms is None:
            return
        asked = (STABLE, *self.candidates)
        if set(self.arms) != set(asked):
            raise ValueError(f"`arms` are {', '.join(self.arms)}, and the stages ask for {', '.join(asked)}")
        if self.arms[STABLE].artifact is not None or self.arms[STABLE].signed_by is not None:
            raise ValueError("`artifact` and `signed_by` are a candidate's: stable is what has been there")
        costs = any(guardrail.metric == "cost" for guardrail in self.guardrails.values())
        if costs and any(arm.price is None for arm in self.arms.values()):
            raise ValueError("a guardrail watches `cost`: every arm needs a `price`")

    @property
    def candidates(self) -> tuple[str, ...]:
        """Their names, in the order of their slots."""
        return tuple(self.stages[0].shares)

    @property
    def harm_limit(self) -> float:
        """log e at which a guardrail is broken: alpha is shared among candidates times guardrails (Bonferroni)."""
        return math.log(len(self.candidates) * len(self.guardrails) / self.alpha)

    @property
    def proof_limit(self) -> float:
        """log e at which a candidate is proven within a margin: alpha is shared among candidates; each needs all its proofs."""
        return math.log(len(self.candidates) / self.alpha)

    @property
    def slots(self) -> dict[str, float]:
        """The largest share that each candidate takes before one of them has all."""
        return self.stages[-1].shares


def load_plan(path: Path) -> RolloutPlan:
    """The plan in a YAML file. RecipeError with line, field and what to do."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        fix = "give a YAML file of a rollout plan"
        raise RecipeError(f"the plan cannot be read: {error}", where=str(path), fix=fix) from None
    raw, lines = reader.read(text, str(path))
    return plan_of(raw, lines, str(path))


def plan_of(raw: dict[str, Any], lines: Lines | None = None, file: str = "plan") -> RolloutPlan:
    """A plan from plain values; errors as of `load_plan`."""
    try:
        return RolloutPlan.model_validate(raw)
    except ValidationError as error:
        raise together([_explained(detail, lines or Lines()) for detail in error.errors()], file) from None


def _explained(detail: Any, lines: Lines) -> RecipeError:
    path = tuple(part for part in detail["loc"] if part not in ("[key]", "one number", "by name"))
    fix = "docs/rollout.md lists the fields of a plan"
    return RecipeError(detail["msg"].removeprefix("Value error, "), where=lines.where(path), fix=fix)
