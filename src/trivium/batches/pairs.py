"""Preference pairs: two rows each, one with the chosen reply and one with the rejected one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trivium.batches.chat import Held
from trivium.batches.rows import Row, sequence_row
from trivium.errors import DataError
from trivium.text.chat import ChatTokenizer, Encoded

STEP = 32
"""Rows are as long as the longest reply needs, rounded up to this: few distinct shapes for the compiler."""


@dataclass
class Pairs(Held[tuple[Encoded, Encoded]]):
    """Pairs of (chosen, rejected), each encoded behind the same prompt. `ref_logp` (pairs, 2) comes from `annotate`."""

    ref_logp: NDArray[np.float32] | None = None

    @classmethod
    def build(
        cls,
        records: Iterable[Mapping[str, Any]],
        chat: ChatTokenizer,
        context: int,
        *,
        length: int | None = None,
        most: int | None = None,
    ) -> Pairs:
        """Rows of `length` tokens, or as long as the longest pair needs within `context`. `most`: as in `holds`. DataError if
        no pair fits."""
        self = cls(length or context, chat.pad)
        for number, record in enumerate(records, start=1):
            if self.holds(most):
                break
            sides: list[Encoded] = []
            with self.account.row(number):
                sides = [
                    chat.response(record["prompt"], record[side], record.get("tools"))
                    for side in ("chosen", "rejected")
                ]
            if not sides:
                continue
            chosen, rejected = sides
            if not any(chosen.mask[: self.length]) or not any(rejected.mask[: self.length]):
                self.account.too_long(number)
            elif self.account.whole_pair(chosen, rejected, self.length, number):
                self.account.kept += 2
                self.account.learned_tokens += sum(weight > 0 for weight in (*chosen.mask, *rejected.mask))
                self.add((chosen, rejected), record, number)
        if not self.items:
            self.account.raise_first()
            raise DataError(
                f"no preference pair fits: {self.account.prompt_too_long} prompts are longer than the context of "
                f"{self.length} tokens, of {self.account.pair_cut} pairs a reply is, and of {self.account.pair_alike} both "
                "replies are the same tokens",
                fix="raise `context`, or shorten the prompts and replies",
            )
        if length is None:
            longest = max(len(side.ids) for pair in self.items for side in pair)
            self.length = min(context, -(-longest // STEP) * STEP)
        return self

    @property
    def tokens_per_item(self) -> float:
        """The replies, and the prompt once."""
        ids = [(chosen.ids, rejected.ids) for chosen, rejected in self.items]
        return sum(len(a) + len(b) - _shared(a, b) for a, b in ids) / len(ids)

    def item(self, index: int) -> Sequence[Row]:
        rows = []
        shared = _shared(*(encoded.ids for encoded in self.items[index]))
        for label, encoded in zip((1, 0), self.items[index], strict=True):
            row = sequence_row([encoded], self.length, self.pad)
            row["pair"] = np.int64(index)  # type: ignore[assignment]
            row["label"] = np.int64(label)  # type: ignore[assignment]
            row["prefix"] = np.int64(shared)  # type: ignore[assignment]
            if self.ref_logp is not None:
                row["ref_logp"] = self.ref_logp[index, 1 - label]
            rows.append(row)
        return rows


def _shared(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two sequences begin with alike, short of the last of either."""
    shortest = min(len(first), len(second)) - 1
    return next((place for place in range(shortest) if first[place] != second[place]), shortest)
