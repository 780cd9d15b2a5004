"""What a policy is asked in rollouts: records that end in a question, as ids, and an account of those left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trivium.batches.chat import NAMED, Refused, named
from trivium.batches.pairs import STEP
from trivium.corpus.records import prompt_of
from trivium.errors import DataError
from trivium.text.chat import ChatTokenizer


@dataclass
class Prompts:
    """Questions to reply to, with the records that verifiers need. Those that leave no room for a reply are counted out."""

    records: list[Mapping[str, Any]]
    ids: list[list[int]]
    dropped: int
    length: int
    """Tokens in a row: the longest prompt and the longest reply."""
    tokens_per_item: float = 0.0
    """Of a prompt and the longest reply to it, in the mean."""
    rows_too_long: list[int] = field(default_factory=list)
    """The first of those left out, by their place in the split, counted from 1."""
    unasked: list[int] = field(default_factory=list)
    """Records in which nobody but the assistant speaks, by their places."""
    numbers: list[int] = field(default_factory=list)
    """Of each of `records`, its place in the split, counted from 1."""
    refused: Refused = field(default_factory=Refused)
    """Records whose prompts the chat template does not take."""

    @classmethod
    def build(
        cls, records: Sequence[Mapping[str, Any]], chat: ChatTokenizer, context: int, max_new_tokens: int
    ) -> Prompts:
        kept: list[Mapping[str, Any]] = []
        ids: list[list[int]] = []
        numbers: list[int] = []
        too_long: list[int] = []
        unasked: list[int] = []
        refused = Refused()
        for number, record in enumerate(records, start=1):
            turns = prompt_of(record)
            if not turns:
                unasked.append(number)
                continue
            encoded: list[int] = []
            with refused.row(number):
                encoded = chat.prompt(turns, record.get("tools"))
            if not encoded:
                continue
            if len(encoded) + max_new_tokens <= context:
                kept.append(record)
                ids.append(encoded)
                numbers.append(number)
            else:
                too_long.append(number)
        if not kept:
            refused.raise_first()
        if not kept and not too_long:
            raise DataError(
                f"nothing is asked: nobody but the assistant speaks in all {len(unasked)} conversations",
                fix="give conversations with a question, or `prompt`s",
            )
        if not kept:
            raise DataError(
                f"no prompt leaves room for {max_new_tokens} new tokens in a context of {context}",
                fix="lower `max_new_tokens`, raise `context`, or shorten the prompts",
            )
        longest = max(map(len, ids)) + max_new_tokens
        length = min(context, -(-longest // STEP) * STEP)
        each = sum(map(len, ids)) / len(ids) + max_new_tokens
        return cls(kept, ids, len(too_long), length, each, too_long[:NAMED], unasked, numbers, refused)

    @property
    def count(self) -> int:
        return len(self.ids)

    def warning(self, context: int, max_new_tokens: int) -> str | None:
        """What is to be said of records of the train split that are left out; None where there are none."""
        reasons = []
        if self.dropped:
            reasons.append(
                f"{self.dropped} prompts of the train split are left out: with {max_new_tokens} new tokens they do not fit "
                f"a context of {context} ({named(self.rows_too_long, self.dropped)})"
            )
        if self.unasked:
            reasons.append(
                f"{len(self.unasked)} conversations of the train split are left out: nobody but the assistant speaks in "
                f"them ({named(self.unasked[:NAMED], len(self.unasked))})"
            )
        if reason := self.refused.reason():
            reasons.append(f"of the train split, {reason}")
        return "; ".join(reasons) or None

    def item(self, index: int) -> Any:
        raise NotImplementedError("prompts become rows once the policy has replied")
