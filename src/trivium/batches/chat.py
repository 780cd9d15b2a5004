"""Conversations for supervised fine-tuning: loss on the assistant's tokens, several conversations to a row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from trivium.batches.rows import Row, sequence_row
from trivium.corpus.records import kind_of
from trivium.errors import DataError
from trivium.text.chat import ChatTokenizer, Encoded
from trivium.text.turns import Learn

RECENT = 8
"""Rows that a conversation may still be packed into: the last so many."""
NAMED = 10
"""Rows that an account names; the others are counted."""


@dataclass
class Refused:
    """Rows of a split that the chat template, or the rules of a conversation, do not take. One bad row costs one row."""

    refused: int = 0
    rows_refused: list[int] = field(default_factory=list)
    first_refusal: dict[str, Any] = field(default_factory=dict)
    """`what`, `where` and `fix` of the first of them."""

    @contextmanager
    def row(self, number: int) -> Iterator[None]:
        """Ends its block at a DataError and counts record `number` of the split, from 1."""
        try:
            yield
        except DataError as error:
            self.refused += 1
            _name(self.rows_refused, number)
            if not self.first_refusal:
                where = error.where or f"row {number}"
                self.first_refusal = {"what": error.what, "where": where, "fix": error.fix}

    def raise_first(self) -> None:
        """DataError of the first refused row, where there is one: for a split of which nothing is left."""
        if self.first_refusal:
            raise DataError(**self.first_refusal)

    def reason(self) -> str | None:
        """What is to be said of the refused rows; None where there are none."""
        if not self.refused:
            return None
        return f"{self.refused} rows are left out ({named(self.rows_refused, self.refused)}): {self.first_refusal['what']}"


def named(rows: Sequence[int], count: int) -> str:
    """The rows by their numbers, and whether there are more of them."""
    return f"rows {', '.join(map(str, rows))}{' and others' if count > len(rows) else ''}"


@dataclass
class Account(Refused):
    """What was refused and what did not fit: conversations dropped because they hold no reply or because the prompt alone
    fills the context, replies cut short, and pairs left out because a reply would be cut or both are the same tokens.
    Preference pairs count their two replies in `kept`, and everything else once. `rows_*` name the first by their place in
    the split, from 1.
    """

    kept: int = 0
    no_reply: int = 0
    prompt_too_long: int = 0
    reply_cut: int = 0
    pair_cut: int = 0
    pair_alike: int = 0
    learned_tokens: int = 0
    rows_too_long: list[int] = field(default_factory=list)
    rows_cut: list[int] = field(default_factory=list)
    rows_alike: list[int] = field(default_factory=list)

    def fit(self, encoded: Encoded, length: int, number: int) -> Encoded | None:
        """The conversation of row `number` within `length` tokens, or None if nothing of a reply would be left."""
        if not any(encoded.mask):
            self.no_reply += 1
            return None
        if len(encoded.ids) > length:
            cut = Encoded(encoded.ids[:length], encoded.mask[:length])
            if not any(cut.mask):
                self.too_long(number)
                return None
            self.cut(number)
            encoded = cut
        self.kept += 1
        self.learned_tokens += sum(weight > 0 for weight in encoded.mask)
        return encoded

    def too_long(self, number: int) -> None:
        self.prompt_too_long += 1
        _name(self.rows_too_long, number)

    def cut(self, number: int) -> None:
        self.reply_cut += 1
        _name(self.rows_cut, number)

    def whole_pair(self, first: Encoded, second: Encoded, length: int, number: int) -> bool:
        """Whether a pair teaches what it says. A reply without its end is no reply: what is compared would be where the context
        ends. Replies of the same tokens prefer nothing."""
        if len(first.ids) > length or len(second.ids) > length:
            self.pair_cut += 1
            _name(self.rows_cut, number)
            return False
        return not self.alike(first, second, number)

    def alike(self, first: Encoded, second: Encoded, number: int) -> bool:
        """Whether two replies are the same tokens, as far as the context reaches."""
        if first.ids != second.ids:
            return False
        self.pair_alike += 1
        _name(self.rows_alike, number)
        return True

    def refuse_endless(self) -> None:
        """DataError where every reply was cut: a model that never sees an end never stops."""
        if self.kept and self.reply_cut == self.kept:
            raise DataError(
                f"all {self.kept} replies are longer than the context leaves room for: none keeps its end mark, so nothing "
                "teaches the model to stop",
                fix="raise `context`, or shorten the replies",
            )

    def warning(self, split: str, length: int) -> str | None:
        """What is to be said of rows that were left out or cut; None where there are none."""
        cases = (
            (
                self.prompt_too_long,
                self.rows_too_long,
                "rows are left out: their prompts fill the context, and nothing of the reply would be left",
            ),
            (
                self.pair_cut,
                self.rows_cut,
                "pairs are left out: a reply would be cut, and its end is part of it",
            ),
            (self.pair_alike, self.rows_alike, "pairs are left out: both replies are the same tokens"),
            (self.reply_cut, self.rows_cut, "replies are cut: nobody learns from them where to stop"),
        )
        reasons = [f"{count} {what} ({named(rows, count)})" for count, rows, what in cases if count]
        size = f"in a context of {length} tokens: {'; '.join(reasons)}; raise `context`, or shorten the rows"
        messages = [self.reason(), size if reasons else None]
        return f"the {split} split: {'. '.join(filter(None, messages))}" if any(messages) else None


def _name(rows: list[int], number: int) -> None:
    if len(rows) < NAMED:
        rows.append(number)


def number_of(record: Mapping[str, Any], names: list[str]) -> int:
    """The place of the record's kind of source among `names`, which grow as new ones come."""
    kind = kind_of(record) if "source" in record else "data"
    if kind not in names:
        names.append(kind)
    return names.index(kind)


Item = TypeVar("Item")


@dataclass
class Held(Generic[Item]):
    """What a split holds, encoded: items in rows of `length` tokens, each with the kinds of source of what is in it."""

    length: int
    pad: int
    account: Account = field(default_factory=Account)
    items: list[Item] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    """Kinds of source, in the order of their first item."""
    kinds: list[list[int]] = field(default_factory=list)
    """Of each item, the places among `names` of its documents' kinds."""
    numbers: list[list[int]] = field(default_factory=list)
    """Of each item, the places of its records in the split, from 1."""

    @property
    def count(self) -> int:
        return len(self.items)

    @property
    def tokens_per_item(self) -> float:
        return self.length

    def origins(self, index: int) -> list[int]:
        return self.kinds[index]

    def holds(self, most: int | None) -> bool:
        """Whether the first `most` items are there as they stay; None: never, all records are wanted."""
        return most is not None and len(self.items) >= most + RECENT

    def add(self, item: Item, record: Mapping[str, Any], number: int) -> None:
        """An item made of one record, the one at place `number` of the split."""
        self.items.append(item)
        self.numbers.append([number])
        self.kinds.append([number_of(record, self.names)])


@dataclass
class Conversations(Held[list[Encoded]]):
    """Conversations packed into rows of `length` tokens, first fit in their own order; which share a row never changes."""

    @classmethod
    def build(
        cls,
        records: Iterable[Mapping[str, Any]],
        chat: ChatTokenizer,
        length: int,
        *,
        pack: bool = True,
        learn: Learn = "all",
        most: int | None = None,
    ) -> Conversations:
        """DataError if no conversation has a reply within `length` tokens. `learn`: which of the replies carry loss.

        `most`: as in `holds`; records after that are not read.
        """
        self = cls(length, chat.pad)
        room: list[int] = []
        for number, record in enumerate(records, start=1):
            if self.holds(most):
                break
            encoded = None
            with self.account.row(number):
                whole = chat.encode(record["messages"], tools=record.get("tools"), learn=learn)
                encoded = self.account.fit(whole, length, number)
            if encoded is None:
                continue
            size = len(encoded.ids)
            recent = range(max(0, len(room) - RECENT), len(room)) if pack else ()
            place = next((i for i in recent if room[i] >= size), None)
            if place is None:
                place = len(room)
                room.append(length)
                self.items.append([])
                self.kinds.append([])
                self.numbers.append([])
            room[place] -= size
            self.items[place].append(encoded)
            self.kinds[place].append(number_of(record, self.names))
            self.numbers[place].append(number)
        if not self.items:
            self.account.raise_first()
            raise DataError(
                f"no conversation fits: {self.account.prompt_too_long} prompts are longer than the context of "
                f"{length} tokens, {self.account.no_reply} conversations have no reply",
                fix="raise `context`, shorten the prompts, or give conversations in which the assistant speaks",
            )
        return self

    def item(self, index: int) -> Sequence[Row]:
        return [sequence_row(self.items[index], self.length, self.pad)]
