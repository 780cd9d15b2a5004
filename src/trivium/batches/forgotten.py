"""Rows to forget, each beside a row to keep: a data stage's training split, parted by a rule as `trivium withdraw` has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trivium.batches.annotate import annotate_reference
from trivium.batches.chat import Conversations
from trivium.batches.context import Items, PhaseContext
from trivium.batches.packed import Corpus, open_corpus
from trivium.batches.rows import BatchSharding, Row, Shuffled, sequence_row
from trivium.corpus import records
from trivium.corpus.withdrawn import COLUMNS, Rule, numbered
from trivium.errors import DataError
from trivium.recipe.alignment import UnlearnStage
from trivium.seeds import derive
from trivium.text.chat import ChatTokenizer
from trivium.types import Batches

Context = PhaseContext[UnlearnStage]
Piece = tuple[Sequence[int], Sequence[float]]
"""Ids of a row, and how much each is to be predicted."""


@dataclass
class Forgotten:
    """Items of two rows: the next row to keep (label 1), and a row to forget (label 0). `ref_logp` (items, 2) comes from
    `annotate`; only the second column is read."""

    pieces: list[Piece]
    kept: Kept
    length: int
    pad: int
    ref_logp: NDArray[np.float32] | None = None

    @property
    def count(self) -> int:
        return len(self.pieces)

    @property
    def tokens_per_item(self) -> float:
        return 2.0 * self.length

    def item(self, index: int) -> list[Row]:
        return self.rows(index, index % self.kept.count)

    def rows(self, index: int, beside: int) -> list[Row]:
        """The row to forget at `index`, beside the one to keep at `beside`."""
        keep = self.kept.item(beside)
        forget = sequence_row([self.pieces[index]], self.length, self.pad)
        for label, row in ((1, keep), (0, forget)):
            row["pair"], row["label"] = np.int64(index), np.int64(label)  # type: ignore[assignment]
            if self.ref_logp is not None:
                row["ref_logp"] = self.ref_logp[index, 1 - label]
        return [keep, forget]


class Beside(Shuffled):
    """The rows to forget in one shuffled order, those to keep in another, which is as long as there are rows to keep."""

    def __init__(self, items: Forgotten, sharding: BatchSharding) -> None:
        super().__init__(items.count, items.item, sharding)
        others = replace(sharding, seed=derive(sharding.seed, "kept"))
        self.items, self.others = items, Shuffled(items.kept.count, items.item, others)

    def describe(self, step: int) -> dict[str, list[int]]:
        return {**super().describe(step), "kept": self.others.describe(step)["items"]}

    def batch(self, step: int) -> list[Any]:
        def rows(place: int) -> list[Row]:
            return self.items.rows(self._index(place), self.others._index(place))

        return self.sharding.cut(step, rows)


@dataclass
class Both(Items):
    """What is to be forgotten and what is to be kept."""

    def ordered(self, sharding: BatchSharding, steps: int) -> Batches:
        assert isinstance(self.train, Forgotten)
        return Beside(self.train, sharding)


def forgotten(ctx: Context) -> Items:
    """Each row to forget beside one to keep; for npo with the log-probabilities of the model as it is before the first step. The
    held-out rows are kept ones: what is measured on them is what the rest has lost."""
    train = part(ctx.config, ctx.data, ctx.chat, ctx.tokens or ctx.work, ctx.length)
    account = {"items": train.count, "row_tokens": train.length, "kept_rows": train.kept.count}
    if ctx.config.loss == "npo":
        machine: Any = ctx.machine
        where = ctx.work / "reference-train.safetensors"
        annotate_reference(train, ctx.model, where, autocast=machine.autocast(), device=machine.device)
    heldout, split = None, ctx.data / "heldout"
    try:
        kept = Kept.open(
            split, ctx.chat, (ctx.tokens or ctx.work) / "heldout", train.length, meant(ctx.config, split)
        )
        if kept.count:
            heldout = Forgotten(train.pieces, kept, train.length, train.pad, train.ref_logp)
    except DataError as error:  # too little to make a row of
        ctx.emit({"event": "warning", "message": f"nothing is held out: {error.what}"})
    return Both(train, heldout, account)


def meant(config: UnlearnStage, split: Path) -> set[tuple[int, int]]:
    """What is to be forgotten of a split, as `numbered` counts."""
    rule = Rule(config.by, config.forget)
    return {(source, number) for _, source, number, row in numbered(split, COLUMNS) if rule.meets(row)}


def part(config: UnlearnStage, data: Path, chat: ChatTokenizer, tokens: Path, length: int) -> Forgotten:
    """A data artifact's training split: what is to be forgotten, and what is to be kept. DataError where either is empty."""
    split, said = data / "train", f"{config.by} {config.forget}"
    documents = meant(config, split)
    if not documents:
        raise DataError(
            f"{said} means none of the training documents: there is nothing to forget",
            where=str(data),
            fix="`trivium withdraw RECIPE` with the same words says what there is; what was withdrawn with `--apply` is in no "
            "data stage any more, and needs no unlearning",
        )
    kept = Kept.open(split, chat, tokens / "train", length, documents)
    if not kept.count:
        raise DataError(
            f"{said} means all of the training documents: there is nothing to keep beside it",
            where=str(data),
            fix="forget less, or put documents that are to be kept into the data stage, too",
        )
    rows = kept.rows
    if isinstance(rows, Corpus):
        pieces = list(_documents(rows, documents))
    else:
        pieces = list(_conversations(split, chat, length, documents))
    return Forgotten(pieces, kept, length, chat.pad)


@dataclass
class Kept:
    """The rows of a split, without what is to be forgotten: of documents it is masked, as they share their rows with others."""

    rows: Corpus | Conversations
    keeping: NDArray[np.int64]
    """The items of `rows` in which anything is left."""
    masked: Mapping[int, NDArray[np.int64]]
    """Place of a source among those of `rows` -> the documents in it that are to be forgotten."""

    @classmethod
    def open(
        cls, split: Path, chat: ChatTokenizer, tokens: Path, length: int, documents: Set[tuple[int, int]]
    ) -> Kept:
        """DataError where the split does not make a row."""
        if any("messages" in row for row in islice(records.read(split), 1)):
            lines = {number for _, number in documents}
            left = [number for number, _ in enumerate(records.read(split), start=1) if number not in lines]
            if not left:
                return cls(Conversations(length, chat.pad), np.array([], np.int64), {})
            packed = Conversations.build(_lines(split, set(left)), chat, length)
            packed.numbers = [[left[number - 1] for number in numbers] for numbers in packed.numbers]
            return cls(packed, np.arange(packed.count), {})
        corpus = open_corpus(split, chat, tokens, length, rows=1, what="the data")
        masked = {
            place: np.array(
                [number for source, number in sorted(documents) if source == one.shard.source], np.int64
            )
            for place, one in enumerate(corpus.sources)
        }
        self = cls(corpus, np.arange(corpus.count), masked)
        empty = [
            index for index in corpus.items_of(documents) if not self._row(int(index))["loss_mask"].any()
        ]
        self.keeping = np.setdiff1d(self.keeping, empty)
        return self

    @property
    def count(self) -> int:
        return len(self.keeping)

    def item(self, place: int) -> Row:
        return self._row(int(self.keeping[place]))

    def _row(self, index: int) -> Row:
        [row] = self.rows.item(index)
        if isinstance(self.rows, Corpus):
            which, number = self.rows.place(index)
            source = self.rows.sources[which]
            at = number * source.length + np.arange(source.length)
            document = np.searchsorted(source.starts, at, side="right") - 1
            row["loss_mask"] = np.where(np.isin(document, self.masked[which]), 0, row["loss_mask"]).astype(
                np.float32
            )
        return row

    def holding(self, documents: Set[tuple[int, int]]) -> set[int]:
        """The places of the rows in which one of the documents is left."""
        if isinstance(self.rows, Corpus):
            gone = {
                (one.shard.source, int(n))
                for place, one in enumerate(self.rows.sources)
                for n in self.masked[place]
            }
            held = self.rows.items_of(set(documents) - gone)
        else:
            lines = {number for _, number in documents}
            held = np.array(
                [n for n, numbers in enumerate(self.rows.numbers) if lines.intersection(numbers)], np.int64
            )
        return set(np.flatnonzero(np.isin(self.keeping, held)).tolist())


def _documents(corpus: Corpus, documents: Set[tuple[int, int]]) -> Iterator[Piece]:
    """Documents cut into rows. A row begins with the token that the one before it ends with, so that each is a target once."""
    for source in corpus.sources:
        for document in sorted(number for place, number in documents if place == source.shard.source):
            ids = source.document(document).tolist()
            for first in range(0, max(1, len(ids) - 1), source.length - 1):
                piece = ids[first : first + source.length]
                yield piece, [1.0] * len(piece)


def _conversations(
    split: Path, chat: ChatTokenizer, length: int, documents: Set[tuple[int, int]]
) -> Iterator[Piece]:
    alone = Conversations.build(_lines(split, {number for _, number in documents}), chat, length, pack=False)
    yield from ((one.ids, one.mask) for item in alone.items for one in item)


def _lines(split: Path, wanted: Set[int]) -> Iterator[dict[str, Any]]:
    return (row for number, row in enumerate(records.read(split), start=1) if number in wanted)
