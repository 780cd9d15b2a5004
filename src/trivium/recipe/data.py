"""Step 1: collecting data, and the tokenizer trained on it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from trivium.recipe.base import Fraction, Name, StageBase
from trivium.recipe.sources import Source
from trivium.recipe.units import Count


class DataStage(StageBase):
    """Reads sources, splits train from held-out, removes duplicates and contamination, mixes by weight."""

    kind: Literal["data"]
    references: ClassVar[tuple[str, ...]] = ("decontaminate",)
    format: Literal["documents", "conversations", "preferences", "feedback"] = "documents"
    """documents to pre-train on, conversations to fine-tune on, preferences (reply pairs) or feedback (replies marked
    good or bad) to align on."""
    sources: list[Source] = []
    size: Count | None = None
    """Size of the training mix: characters for documents, items otherwise. None: the largest there is."""
    heldout: Fraction = 0.05
    """Share of the items that is never trained on, chosen by a hash of the item itself."""
    dedup: bool = True
    """Drop documents and items that are equal after white space is normalised."""
    decontaminate: list[Name] = []
    """Data stages whose held-out items must not be seen in this stage's training split."""
    ngram: Annotated[int, Field(ge=3)] = 13
    """Words in a row that count as contamination."""


class TokenizerStage(StageBase):
    """Trains a byte-level BPE tokenizer (any text round-trips exactly; digits stay single)."""

    kind: Literal["tokenizer"]
    references: ClassVar[tuple[str, ...]] = ("data",)
    data: Name
    vocab_size: Annotated[Count, Field(ge=300)] = 4096
    sample: Count = 20_000_000
    """Characters of the mix that the tokenizer is trained on."""
