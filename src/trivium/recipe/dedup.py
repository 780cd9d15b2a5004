"""Duplicates: what counts as one, with the published parameters as defaults."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from trivium.recipe.base import Fraction, Strict
from trivium.recipe.steps import Switch


class Lines(Strict):
    """Lines (or paragraphs) that stand in many documents are removed from all of them, as in CCNet (Wenzek et al. 2020,
    arXiv:1911.00359): menus, notices, templates. Compared without case, digits and punctuation."""

    unit: Literal["lines", "paragraphs"] = "lines"
    """What is compared: lines, or paragraphs (blank lines between them)."""
    documents: Annotated[int, Field(ge=1)] = 10
    """Removed if it stands in more documents than this."""
    min_characters: Annotated[int, Field(ge=0)] = 10
    """Shorter ones stay, whatever they are."""


class Fuzzy(Strict):
    """Near-duplicates by MinHash and locality-sensitive hashing (Broder 1997; parameters of FineWeb, Penedo et al. 2024,
    arXiv:2406.17557): two documents that share 75% of their 5-grams are found with a probability of 77%, 80% with 92%."""

    bands: Annotated[int, Field(ge=1)] = 14
    """Groups of hashes; documents that agree in one whole group are near-duplicates."""
    rows: Annotated[int, Field(ge=1)] = 8
    """Hashes of one group. bands x rows hashes are taken in all."""
    hashes: Annotated[int, Field(ge=1)] | None = None
    """bands x rows, if you want to say it: 112."""
    ngram: Annotated[int, Field(ge=1)] = 5
    """Words in a row that are compared."""
    similarity: Fraction | None = None
    """Least share of equal hashes that confirms a pair found by the groups. null: every pair found counts."""

    @model_validator(mode="after")
    def _consistent(self) -> Fuzzy:
        if self.hashes is not None and self.hashes != self.bands * self.rows:
            raise ValueError(f"hashes must be bands x rows = {self.bands * self.rows}, not {self.hashes}")
        return self


class Dedup(Strict):
    """Which duplicates are dropped. Of each group the best copy stays: quality score, then length, then key."""

    url: bool = True
    """Documents: the same URL (without fragment)."""
    exact: bool = True
    """The same text after white space is normalised."""
    lines: Switch[Lines] = None
    """Documents: repeated lines or paragraphs across documents."""
    fuzzy: Switch[Fuzzy] = None
    """Documents: near-duplicates."""
