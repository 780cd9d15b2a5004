"""The suites of step 5 as a recipe names them: what each asks, and the metrics that its rows give.

A class is a kind of suite; its file under `evaluate/suites/` has the same name and says how it asks and judges. What else is
known of a kind (its metrics, the formats of data it takes, what items it needs, whether it lets the model write, asks the
baseline too) stands here, once. Packages of others add theirs through the entry points `trivium.suites`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from trivium.recipe.base import only
from trivium.recipe.benchmarks import Answers, Choice, Harness, Questions, Reasoning, scored
from trivium.recipe.judges import Judges, PairJudge
from trivium.recipe.kinds import kind_of
from trivium.recipe.memorisation import Canaries, Memorisation
from trivium.recipe.published import Bbq, CrowsPairs, StereoSet, WinoBias
from trivium.recipe.redteam import Garak, Gcg, RedTeam
from trivium.recipe.suite import DataSuite, FileSuite, Metric, Needed, SuiteBase
from trivium.recipe.units import Count


class BitsPerByte(DataSuite):
    """Held-out documents: -log2 p(text) per UTF-8 byte, each from its own beginning, cut at the context."""

    kind: Literal["bits_per_byte"]
    metrics = (
        Metric("bits_per_byte", "held-out bits per byte", "bits", "ratio", -1, show="nats", bounds=None),
    )
    writes = False
    formats = ("documents",)


class ResponseLoss(DataSuite):
    """Held-out conversations: mean -log p of the assistant's tokens, in nats."""

    kind: Literal["response_loss"]
    metrics = (
        Metric(
            "response_loss", "held-out response loss (nats/token)", "nats", "ratio", -1, show="nats", bounds=None
        ),
    )  # fmt: skip
    writes = False
    formats = ("conversations",)


class Preferences(DataSuite):
    """Held-out pairs: does the model prefer the chosen reply, and how good are its own?

    preference_accuracy: implicit reward margin above 0 against the baseline (Rafailov et al. 2023, eq. 5). win_rate: its own
    reply beats the baseline's own by the stated checker. beats_rejected: it beats the pair's rejected reply.
    """

    kind: Literal["preferences"]
    metrics = (
        Metric("preference_accuracy", "preference accuracy (implicit margin > 0)", "margin", "gains", bounds=None),
        Metric("win_rate", "win rate against the baseline's own replies (checker)", "checker", "wins"),
        Metric("beats_rejected", "replies that beat the rejected one (checker)", "beats_rejected", "mean"),
    )  # fmt: skip
    formats = ("preferences",)
    reads_per_item = 2


class Pairwise(DataSuite):
    """Held-out prompts: does a language model prefer the model's reply to the baseline's? Each pair is judged in both orders, and
    a verdict that hangs on the order is undecided."""

    kind: Literal["pairwise"]
    metrics = (
        Metric(
            "preferred", "replies that a judge prefers to the baseline's, a tie a half", "preferred", "mean"
        ),
    )
    formats = ("conversations", "preferences")
    asks_baseline = True
    judge: PairJudge


class Refusals(DataSuite):
    """Held-out requests, half harmful and half harmless: is the reply a refusal, does it hold the content, is it coherent?"""

    kind: Literal["refusals"]
    metrics = (
        Metric("refusal_rate", "refusals of harmful requests", "refused", category="harmful"),
        Metric(
            "false_refusals", "false refusals of harmless ones", "refused", better=-1, category="harmless"
        ),
        Metric("complied", "harmful requests answered", "content", better=-1, category="harmful"),
        Metric("coherent_replies", "coherent replies to either kind", "coherent"),
    )
    formats = ("conversations",)
    needs = (
        Needed("`meta.harmful: true`", lambda meta: meta.get("harmful") is True),
        Needed("`meta.harmful: false`", lambda meta: meta.get("harmful") is False),
    )
    judges: Judges = []
    """Who says whether a reply declines, holds what was asked for, is coherent: one an axis, else
    the rules."""


class Primer(DataSuite):
    """Held-out questions of the primer, up to `items` of each sort: taught names in new phrasings, names that are not taught,
    sums, lists to sort, small talk."""

    kind: Literal["primer"]
    metrics = (
        Metric("described", "taught names described (text, kind, module)", "whole", category="names"),
        Metric("described_text", "taught names described (text alone)", "content", category="names"),
        Metric("signatures", "signatures", "content", category="signatures"),
        Metric("sums", "sums right", "content", category="sums"),
        Metric("sorting", "lists sorted right", "content", category="lists"),
        Metric("small_talk", "who it is, and what it is not for", "content", category="small talk"),
        Metric("copied", "unknown names copied letter for letter", "copied", category="unknown names"),
        Metric("honest", "unknown names declined", "declined", category="unknown names"),
        Metric("needless", "taught names declined", "declined", better=-1, category="names"),
    )  # fmt: skip
    formats = ("conversations",)
    temperature: Annotated[float, Field(ge=0)] = 0.3
    """At which replies are drawn: that of `trivium chat`."""

    @property
    def asked(self) -> int:
        return len({metric.category for metric in self.metrics})


class Drift(DataSuite):
    """Where training pushed the replies, asked for or not: one reply to each held-out prompt, drawn at temperature 1."""

    kind: Literal["drift"]
    metrics = (
        Metric("reply_tokens", "length of a sampled reply (tokens)", "length", "mean", 0, show="number", bounds=None),
        Metric("unfinished", "sampled replies cut off", "unfinished", better=-1),
        Metric("repetition", "repetition in sampled replies", "repetition", "mean", -1),
        Metric("declined", "sampled replies that decline", "refused", better=0),
        Metric("kl_per_token", "distance from the baseline (nats/token)", "kl", "ratio", 0, show="nats", bounds=None),
        Metric("kl_per_reply", "distance from the baseline (nats/reply)", "kl", "mean", 0, show="nats", bounds=None),
    )  # fmt: skip
    formats = ("conversations", "preferences")
    asks_baseline = True


class Verbatim(DataSuite):
    """Replies to held-out prompts that stand verbatim in what the model was trained on, as `trivium trace` finds them."""

    kind: Literal["verbatim"]
    metrics = (
        Metric("verbatim_replies", "replies with a long verbatim span", "span", better=-1),
        Metric("verbatim_share", "share of a reply that is verbatim", "share", "mean", -1),
    )
    formats = ("conversations", "preferences")
    tokens: Annotated[Count, Field(gt=0)] = 50
    """Tokens of a span that counts as long. The share counts spans of eight tokens, or of so many where that is less."""
    licences: tuple[str, ...] = ()
    """Only spans that stand in a document under one of these; `unknown` for none. Empty: any."""


class Withdrawn(FileSuite):
    """Is what was withdrawn gone: from the training data, from replies to its beginnings, from what the model finds likely? An
    evaluation asks it by itself of a model whose data stages were made without something. The file holds records as JSON lines;
    those with `other: true` were never trained on, and are what the withdrawn ones are compared with."""

    kind: Literal["withdrawn"]
    metrics = (
        Metric("withdrawn_in_data", "withdrawn documents with a long run in the training data", "in_data", better=-1),
        Metric("withdrawn_told", "withdrawn documents that the model goes on with", "told", better=-1),
        Metric("withdrawn_span", "longest run of a withdrawn document in a reply (tokens)", "span", "mean", -1,
               show="number", bounds=None),
        Metric("withdrawn_exposure", "exposure of withdrawn documents among held-out ones (bits)", "exposure", "mean", -1,
               show="nats", bounds=None),
    )  # fmt: skip
    tokens: Annotated[Count, Field(gt=0)] = 16
    """Tokens of a run that counts as long: of a shorter document, or rest of one, all of it."""


class Bias(SuiteBase):
    """Counterfactual pairs written for it (gender, age, nationality, religion, disability, several at once × occupations and
    traits): how much likelier is the end of a sentence about the one whom a stereotype is about?"""

    kind: Literal["bias"]
    metrics = (
        Metric("bias_gap", "stereotyped ends likelier by (nats)", "gap", "mean", 0, show="nats", bounds=None),
        Metric("bias_size", "ends differ between groups by (nats)", "size", "mean", -1, show="nats", bounds=None),
        Metric("stereotyped", "ends likelier for whom the stereotype is about", "stereotyped", better=0),
    )  # fmt: skip
    writes = False
    reads_per_item = 2


class Speakers(SuiteBase):
    """The requests of `redteam` and its harmless look-alikes, from two people who say who they are ("I am blind. How do I ...?"):
    `items` pairs of each sort. Is one declined more than the other?"""

    kind: Literal["speakers"]
    metrics = (
        Metric("refusal_gap", "harmless requests: declined more of whom prejudice meets", "gap", "mean", 0, "harmless",
               "number", None),
        Metric("refusal_gap_harmful", "harmful requests: declined more of whom prejudice meets", "gap", "mean", 0, "harmful",
               "number", None),
        Metric("speakers_refused", "harmless requests of people who say who they are, declined", "refused", better=-1,
               category="harmless"),
    )  # fmt: skip

    @property
    def asked(self) -> int:
        """Harmless and harmful, of two people."""
        return 4


class Toxicity(SuiteBase):
    """Sentences about two people who differ in one thing or in several, gone on with by the model: which completions does a
    trained judge call toxic, and more so of one than of the other? `items` pairs of beginnings."""

    kind: Literal["toxicity"]
    metrics = (
        Metric("toxicity", "completions that are toxic", "toxic", better=-1),
        Metric("toxicity_gap", "completions: toxic more often about whom prejudice meets", "gap", "mean", 0, None, "number",
               None),
    )  # fmt: skip
    reads_files = True
    draws: Annotated[Count, Field(gt=0)] = 4
    """Completions of a beginning."""
    temperature: Annotated[float, Field(ge=0)] = 1.0
    """At which they are drawn."""
    head: Annotated[str, Field(min_length=1)] | None = None
    """The judge, from the recipe's folder, as `trivium evaluate judge train --axis toxic` writes it. None: the one that comes
    with Trivium."""
    max_new_tokens: Annotated[int, Field(gt=0)] = only(24, {"writes": "set"})
    """Length limit of a generated reply."""

    @property
    def asked(self) -> int:
        """Of two people."""
        return 2 * self.draws


class Instructions(SuiteBase):
    """Requests written for it, with rules for the reply's form that a program checks (after IFEval): lengths, words to use and to
    leave out, bullets, JSON, capital letters and others, alone and together."""

    kind: Literal["instructions"]
    metrics = (
        Metric("prompts_followed", "all instructions of a prompt followed", "followed"),
        Metric("instructions_followed", "instructions followed", "instructions", "ratio"),
    )
    max_new_tokens: Annotated[int, Field(gt=0)] = only(512, {"writes": "set"})
    """Length limit of a generated reply."""


OWN: tuple[type[SuiteBase], ...] = (
    BitsPerByte,
    ResponseLoss,
    Reasoning,
    Answers,
    Questions,
    Preferences,
    Pairwise,
    Refusals,
    Drift,
    Primer,
    RedTeam,
    Gcg,
    Garak,
    Bias,
    Speakers,
    Toxicity,
    Choice,
    Instructions,
    Verbatim,
    Withdrawn,
    Harness,
    CrowsPairs,
    StereoSet,
    WinoBias,
    Bbq,
    Canaries,
    Memorisation,
)
"""A new kind is one more here, and one row in `evaluate/suites`."""
SUITES: dict[str, type[SuiteBase]] = {kind_of(suite): suite for suite in OWN}
"""Kind -> its model; `recipe.models` adds those of other packages."""

ALWAYS_MEASURED: dict[str, Metric] = {
    "file_bytes": Metric("file_bytes", "weights on disk", "", "mean", -1, bounds=None),
    "tokens_per_second": Metric("tokens_per_second", "decode tokens/s (one stream)", "", "mean", 1, bounds=None),
}  # fmt: skip
"""Measured of every model, without a suite."""


def metrics_of(suites: list[Any]) -> dict[str, tuple[SuiteBase, Metric]]:
    """Name -> (suite, metric) of all that the suites of a stage measure."""
    return {suite.named(metric): (suite, metric) for suite in suites for metric in suite.measured}


def metric_named(name: str) -> Metric:
    """The metric behind a name in results, which may stand behind its suite's and before the filter of a task of the harness."""
    known = {metric.name: metric for suite in SUITES.values() for metric in suite.metrics} | ALWAYS_MEASURED
    last = name.rsplit(".", 1)[-1]
    base = last.split(",", 1)[0]
    return known.get(name) or known.get(base) or scored(last)
