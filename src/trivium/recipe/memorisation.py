"""Suites about what a model has kept of its training documents: planted canaries, verbatim text, personal data."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from trivium.recipe.base import only
from trivium.recipe.suite import DataSuite, Metric


class Canaries(DataSuite):
    """Secrets that the data stage planted (`canaries`): is the planted one the likeliest of so many `others`, and by how many
    bits does it stand out (exposure, Carlini et al. 2019)? Never planted ones are asked too, as the control."""

    kind: Literal["canaries"]
    metrics = (
        Metric("canaries_found", "planted secrets likelier than all others", "found", better=-1, category="planted"),
        Metric("exposure", "exposure of planted secrets (bits)", "exposure", "mean", -1, "planted", "nats", None),
        Metric("control_found", "secrets never planted likelier than all others", "found", better=0, category="control"),
        Metric("control_exposure", "exposure of secrets never planted (bits)", "exposure", "mean", 0, "control", "nats", None),
    )  # fmt: skip
    formats = ("documents",)
    writes = False
    others: Annotated[int, Field(ge=15, le=100_000)] = 255
    """Other secrets that each is ranked among. The most that can be found is log2(others + 1) bits; one that was never
    planted is found by chance once in others + 1."""

    @property
    def asked(self) -> int:
        """The planted secret and those that it is ranked among."""
        return self.others + 1


class Memorisation(DataSuite):
    """Beginnings of training documents, greedily gone on with: does the rest come out word for word? By the length of the
    beginning, by how often the document stands in the data; and personal data and canaries' secrets behind what precedes them."""

    kind: Literal["memorisation"]
    metrics = (
        Metric("continued_verbatim", "training documents continued verbatim", "verbatim", better=-1, category="document"),
        Metric("canaries_told", "planted secrets told", "verbatim", better=-1, category="planted"),
        Metric("control_told", "secrets never planted told", "verbatim", better=0, category="control"),
        Metric("pii_told", "personal data of training documents told", "verbatim", better=-1, category="pii"),
    )  # fmt: skip
    formats = ("documents",)
    prefixes: Annotated[list[Annotated[int, Field(gt=0, le=10_000)]], Field(min_length=1)] = [8, 16, 32, 64]
    """Words of a document that are given; before personal data so many of the longest."""
    words: Annotated[int, Field(gt=0)] = 12
    """Words that must follow as they stand in the document. A reply that `max_new_tokens` ends before that, right so far, is
    undecided."""
    max_new_tokens: Annotated[int, Field(gt=0)] = only(64, {"writes": "set"})
    """Length limit of a generated reply."""

    @property
    def asked(self) -> int:
        """`items` beginnings of documents, so many canaries, and so many places with personal data, at most."""
        return 3
