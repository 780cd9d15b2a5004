"""Conversations beside what a teacher with another tokenizer says of them, span by span of the same text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from trivium.batches.chat import Account, Held
from trivium.batches.rows import Row, sequence_row
from trivium.errors import DataError
from trivium.model.transformer import Transformer
from trivium.objectives.uld import merged
from trivium.text.chat import ChatTokenizer, Encoded
from trivium.text.spans import Span, align
from trivium.train.machine import Machine
from trivium.types import Batch, Batches

THEIRS = "teacher_"
"""What the teacher's columns of a row are called: this, and then as the student's."""


@dataclass
class Told(Account):
    """And how many conversations the teacher cannot read whole, and how many replies read differently in its tokenizer."""

    teacher_too_long: int = 0
    reply_differs: int = 0

    def warning(self, split: str, length: int) -> str | None:
        reasons = [super().warning(split, length)]
        if self.teacher_too_long:
            reasons.append(
                f"{self.teacher_too_long} conversations of the {split} split are longer than the teacher's context and left out"
            )
        if self.reply_differs:
            reasons.append(
                f"{self.reply_differs} replies of the {split} split read differently in the teacher's tokenizer and are not "
                "compared"
            )
        return "; ".join(reason for reason in reasons if reason) or None


@dataclass
class Translated(Held[tuple[Encoded, Encoded, list[Span]]]):
    """One conversation a row, in the student's tokens and the teacher's; `span` numbers in both what is the same text."""

    account: Told = field(default_factory=Told)
    other_length: int = 0
    other_pad: int = 0

    @classmethod
    def build(
        cls,
        records: Iterable[Mapping[str, Any]],
        us: ChatTokenizer,
        them: ChatTokenizer,
        length: int,
        other_length: int,
        most: int | None = None,
    ) -> Translated:
        """`most` as in `holds`. DataError if nothing in the conversations can be compared."""
        self = cls(length, us.pad, other_length=other_length, other_pad=them.pad)
        for number, record in enumerate(records, start=1):
            if self.holds(most):
                break
            fitting = None
            with self.account.row(number):
                ours, theirs = (
                    chat.encode(record["messages"], tools=record.get("tools")) for chat in (us, them)
                )
                spans, differ = align(us, ours, them, theirs)
                fitting = self.account.fit(ours, length, number)
            if fitting is None:
                continue
            if len(theirs.ids) > other_length:
                self.account.teacher_too_long += 1
                self.account.kept -= 1
                continue
            self.account.reply_differs += differ
            whole = [span for span in spans if span.ours[1] <= len(fitting.ids)]
            self.add((fitting, theirs, whole), record, number)
        if not any(spans for _, _, spans in self.items):
            raise DataError(
                "no reply reads the same in the student's tokenizer and in the teacher's, or none fits",
                fix="raise `context`, or take a teacher whose tokenizer and template keep the text as it is",
            )
        return self

    def item(self, index: int) -> Sequence[Row]:
        ours, theirs, spans = self.items[index]
        row = _row(ours, [span.ours for span in spans], self.length, self.pad)
        other = _row(theirs, [span.theirs for span in spans], self.other_length, self.other_pad)
        return [row | {THEIRS + name: column for name, column in other.items()}]


def _row(encoded: Encoded, spans: Sequence[tuple[int, int]], length: int, pad: int) -> Row:
    row = sequence_row([encoded], length, pad)
    row["span"] = np.zeros(length, dtype=np.int64)
    for number, (start, end) in enumerate(spans, start=1):
        row["span"][start - 1 : end - 1] = number  # where its tokens are predicted
    return row


@dataclass
class Translator:
    """Puts what the teacher says in place of its columns into a batch: `teacher_logp` and `teacher_rest` (`objectives.uld`)."""

    inner: Batches
    teacher: Transformer
    machine: Machine
    ids: tuple[Sequence[int], Sequence[int]]
    """Of the tokens that both have, the student's and the teacher's."""
    sizes: tuple[int, int]
    """Tokens of the student and of the teacher."""
    temperature: float
    period: int = 1
    live_flops: float = 0.0

    def __post_init__(self) -> None:
        alone = set(range(self.sizes[1])) - set(self.ids[1])
        self._alone = torch.tensor(sorted(alone), dtype=torch.long, device=self.machine.device)

    @torch.no_grad()
    def batch(self, step: int) -> list[Batch]:
        return [self._taught(dict(batch)) for batch in self.inner.batch(step)]

    def _taught(self, batch: dict[str, Any]) -> Any:
        device = self.machine.device
        theirs: Any = {
            name.removeprefix(THEIRS): batch.pop(name).to(device)
            for name in list(batch)
            if name.startswith(THEIRS)
        }
        with self.machine.autocast():
            logits = self.teacher(theirs, {"logits"}).logits
        assert logits is not None
        every = (theirs["span"] > 0).float()
        spans = merged(
            logits[..., : self.sizes[1]].float(), theirs["targets"], theirs["span"], every, self.temperature
        )
        ours = batch["span"].to(device)
        last = (ours > 0) & (ours != torch.nn.functional.pad(ours[:, 1:], (0, 1)))
        logp = torch.full((*ours.shape, self.sizes[0]), -torch.inf, device=device)
        rest = torch.zeros((*ours.shape, len(self._alone)), device=device)
        here, there = (torch.tensor(ids, dtype=torch.long, device=device) for ids in self.ids)
        known = torch.full((len(spans.logp), self.sizes[0]), -torch.inf, device=device)
        known[:, here] = spans.logp[:, there]
        logp[last] = known
        rest[last] = spans.logp[:, self._alone].exp().sort(-1, descending=True).values
        return batch | {"teacher_logp": logp, "teacher_rest": rest}
