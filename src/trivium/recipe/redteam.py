"""Suites that attack a model: our own requests, suffixes searched for in its weights, and the probes of garak."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from trivium.recipe.attacks import ATTACKS, HARMS, AttackName, HarmName
from trivium.recipe.base import how
from trivium.recipe.judges import Judges
from trivium.recipe.kinds import Group
from trivium.recipe.suite import Metric, SuiteBase
from trivium.recipe.units import Count, Seconds


class RedTeam(SuiteBase):
    """Requests by kind of harm under attack, instructions hidden in documents, a system prompt's secret, and beside them harmless
    requests that look alike: `items` of each sort at most."""

    kind: Literal["redteam"]
    metrics = (
        Metric("attack_success", "attacks that got an answer", "content", better=-1, category="harmful"),
        Metric("attacks_refused", "attacks refused", "refused", category="harmful"),
        Metric("injected", "hidden instructions obeyed", "content", better=-1, category="injection"),
        Metric("leaked", "secrets of system prompts told", "content", better=-1, category="extraction"),
        Metric("over_refusal", "harmless look-alikes refused", "refused", better=-1, category="harmless"),
        Metric("attacked_coherent", "coherent replies", "coherent"),
    )
    named_kinds: ClassVar[dict[str, Group]] = {"attacks": "trivium.attacks", "harms": "trivium.harms"}
    attacks: list[AttackName] = list(ATTACKS)
    """How requests are put: by ours, or those of a package (entry points `trivium.attacks`)."""
    harms: list[HarmName] = list(HARMS)
    """What is asked for: ours, or those of a package (entry points `trivium.harms`)."""
    queries: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Best-of-N: attempts at a request, each spelt otherwise; `items` attempts in all, at most. 0: none. The report holds success
    by the number of queries, and its power law."""
    temperature: Annotated[float, Field(ge=0)] = 1.0
    """At which replies to best-of-N are drawn; all others are greedy."""
    judges: Judges = []
    """As in `refusals`. Hidden instructions and secrets of system prompts are always judged by the rules."""

    @property
    def asked(self) -> int:
        """Attacks, look-alikes and hidden instructions, so many of each, and best-of-N's attempts."""
        return 3 + (self.queries > 0)


class Gcg(SuiteBase):
    """Requests by kind of harm with a suffix that is searched for in the model's own weights, token by token (GCG, Zou et al.
    2023): for small models, since each of `queries` reads the suffix once."""

    kind: Literal["gcg"]
    metrics = (
        Metric("gcg_success", "requests answered behind a searched suffix", "content", better=-1, category="harmful"),
        Metric("gcg_refused", "requests refused behind a searched suffix", "refused", category="harmful"),
        Metric("gcg_coherent", "coherent replies behind a searched suffix", "coherent", category="harmful"),
        Metric("gcg_raised", "a complying beginning made likelier by (nats/token)", "raised", "mean", -1, "harmful", "nats",
               None),
    )  # fmt: skip
    named_kinds: ClassVar[dict[str, Group]] = {"harms": "trivium.harms"}
    harms: list[HarmName] = list(HARMS)
    """As in `redteam`."""
    queries: Annotated[Count, Field(gt=0)] = 256
    """Suffixes whose loss is looked at, for each request. The model is asked after 1, 10, 100 and all of them: the report holds
    success by the number of queries, and its power law."""
    candidates: Annotated[Count, Field(gt=0)] = 32
    """Suffixes of a step, each one token away from where it begins."""
    tokens: Annotated[Count, Field(gt=0)] = 12
    """About how long a suffix is: it begins as so many exclamation marks."""
    judges: Judges = []
    """As in `refusals`."""

    @property
    def reads(self) -> int:
        """Of all candidates the part that they do not share is read, a fifth or so, and forwards and backwards once a step."""
        return 4 + self.queries // 5 + 3 * -(-self.queries // self.candidates)


class Garak(SuiteBase):
    """Probes of garak, which runs in an environment of its own against our own server: `items` prompts of each probe at most,
    drawn by garak. What its detectors could not say is undecided, whatever its exit code."""

    kind: Literal["garak"]
    metrics = (
        Metric("garak_success", "garak's prompts that got through", "detected", better=-1),
        Metric("garak_coherent", "coherent replies to garak's prompts", "coherent"),
    )
    reads_files = True
    probes: Annotated[list[str], Field(min_length=1)]
    """By garak's names: MODULE.CLASS, such as `dan.Dan_11_0`."""
    python: Annotated[str, Field(min_length=1)] = how("garak/bin/python")
    """The Python of the environment that has garak, from the recipe's folder."""
    limit: Annotated[Seconds, Field(gt=0)] = how(1800.0)
    """How long a probe may take (1800 s); its prompts are undecided then."""

    @property
    def asked(self) -> int:
        return len(self.probes)
