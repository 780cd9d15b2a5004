"""Step 1: collecting data, and the tokenizer trained on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from trivium.recipe.base import Fraction, Name, StageBase, Strict, how, only
from trivium.recipe.dedup import Dedup
from trivium.recipe.mix import Mix
from trivium.recipe.steps import Extract, Language, Normalise, Pii, PlugInStep, Quality, RulesBlock, Switch
from trivium.recipe.units import Count

if TYPE_CHECKING:
    from trivium.recipe.sources import SourceBase as Source  # `recipe.models` says which there are


class Canaries(Strict):
    """Sentences with made-up secrets, planted in the training documents: what is kept of a text that stands there so often?"""

    count: Annotated[int, Field(gt=0, le=10_000)] = 8
    """Canaries of each number of `repeats`."""
    repeats: Annotated[list[Annotated[int, Field(ge=0, le=100_000)]], Field(min_length=1)] = [0, 1, 4, 16, 64]
    """How often each is planted. 0: never, to compare with."""

    @model_validator(mode="after")
    def _told_apart(self) -> Canaries:
        if len(set(self.repeats)) < len(self.repeats):
            raise ValueError("repeats: every number once; `count` says how many canaries each has")
        return self


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
    mix: Mix | None = None
    """Documents: keep all of each source and mix by weight while training (temperature, max_epochs, curriculum)."""
    heldout: Fraction = 0.05
    """Share of the items that is never trained on, chosen by a hash of the item itself."""
    extract: Extract = Extract()
    """Documents: how the text of a page of HTML is found."""
    normalise: Switch[Normalise] = Normalise()
    """Unicode normalisation, repair of charsets, invisible characters. `false` leaves the text as it is."""
    language: Switch[Language] = None
    """Language identification, and which languages are kept."""
    rules: RulesBlock = None
    """Documents: published heuristic rules: gopher, gopher_repetition, c4, fineweb. `web` is FineWeb's selection."""
    quality: Quality | None = None
    """A trained quality score, and the least one that is kept."""
    steps: list[PlugInStep] = []
    """Steps of other packages (entry points `trivium.steps`), in their order, before `pii`."""
    pii: Switch[Pii] = None
    """Personal data and secrets replaced by placeholders."""
    dedup: Switch[Dedup] = Dedup()
    """Duplicates: equal texts (white space normalised) and URLs; `lines` and `fuzzy` are switched on inside."""
    decontaminate: list[Name] = []
    """Data stages whose held-out items must not be seen in this stage's training split."""
    ngram: Annotated[int, Field(ge=3)] = only(13, {"decontaminate": "set"})
    """Words in a row that count as contamination."""
    on_overlap: Literal["drop", "flag"] = only("drop", {"decontaminate": "set"})
    """Items that share words with an evaluation item: dropped here, or kept and the evaluation items flagged; an
    evaluation refuses flagged items unless its suite says `contaminated: report`."""
    canaries: Canaries | None = None
    """Documents: made-up secrets planted in the training split after all steps; the suites `canaries` and `memorisation` look for
    them in what the model gives. For models that are to be measured, not released."""
    keep_rejects: bool = how(False)
    """Keep what is dropped, with step and reason, in the folder `rejects`. Data that is there already is not made anew for it."""
    keep_read: bool = how(True)
    """Keep what was read in the store, so that other weights, another size or split of it need no reading; about as large as the
    corpus, and `trivium store gc` frees it."""
    max_dead: Annotated[int, Field(ge=0)] = how(1000)
    """Inputs that cannot be read before the stage stops; each is listed in dead_letters.jsonl."""
    runner: Literal["native", "ray"] = how("native")
    """Daft's engine: all cores of this machine, or the Ray cluster of RAY_ADDRESS. The artifact is the same."""
    workers: Annotated[int, Field(ge=1)] | None = how(None)
    """Processes that read. null: one a core."""


class TokenizerStage(StageBase):
    """Trains a byte-level BPE tokenizer (any text round-trips exactly; digits stay single)."""

    kind: Literal["tokenizer"]
    formats: ClassVar[tuple[str, ...]] = ("documents",)
    references: ClassVar[tuple[str, ...]] = ("data",)
    data: Name
    vocab_size: Annotated[Count, Field(ge=300)] = 4096
    sample: Count = 20_000_000
    """Characters of the mix that the tokenizer is trained on."""
